import type { Tape } from '../autograd/tape.ts';
import { at } from '../autograd/op.ts';
import { requireSameShape, tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { hyperIndex, hyperWords, validOf } from '../kernels/optim.ts';

type Storage = Tensor['storage'];

export type NamedParameters = Iterable<readonly [string, Tensor]>;

/** The hyper-parameters of one parameter group, by the names of the kernel's hyper buffer. */
export type HyperValues = Readonly<Partial<Record<keyof typeof hyperIndex, number>>>;

export interface Slot {
  readonly name: string;
  readonly parameter: Tensor;
  /** State tensors of this parameter by name: exp_avg, exp_avg_sq, momentum_buffer, … */
  readonly state: Readonly<Record<string, Tensor>>;
  /** Where the moving average of the parameter is kept, if anywhere. */
  readonly ema: Tensor | undefined;
}

/** Slots that one launch can move: what they hold lies side by side. */
export interface Run {
  readonly slots: readonly Slot[];
  readonly w: Storage;
  /** By the names of the slots' states. */
  readonly state: Readonly<Record<string, Storage>>;
  readonly ema: Storage | undefined;
  readonly g: Storage;
  /** Elements, those between the tensors included. */
  readonly n: number;
}

/**
 * A group of parameters with one buffer of hyper-parameters on the GPU. The first words belong to the host, which may
 * rewrite them between steps (learning rates); the others (step count, powers of beta) are moved by the GPU, so that a
 * captured step needs nothing from the host.
 */
export class ParameterGroup {
  readonly hyper: Tensor;
  readonly slots: readonly Slot[];
  /** A step has no gradients of it, and leaves it as it is: parameters, state, averages and the step count. */
  frozen = false;
  readonly #tape: Tape;
  readonly #host: Float32Array;
  readonly #settable: ReadonlySet<string>;
  /** Of runs that were looked at for overflows, by the names of their slots. */
  readonly #valid = new Map<string, Tensor>();

  constructor(
    tape: Tape,
    parameters: NamedParameters,
    options: {
      /** Values of the host's words. */
      readonly host: HyperValues;
      /** First values of the GPU's words. */
      readonly device: HyperValues;
      readonly stateNames: readonly string[];
      /** Averages by parameter name: parameters that it does not name have none. */
      readonly ema?: ReadonlyMap<string, Tensor> | undefined;
    },
  ) {
    this.#tape = tape;
    const words = new Float32Array(hyperWords);
    for (const [name, value] of entriesOf({ ...options.host, ...options.device })) {
      words[indexOf(name)] = value;
    }
    const hostCount = 1 + Math.max(...Object.keys(options.host).map((k) => indexOf(k)));
    this.#host = words.slice(0, hostCount);
    this.#settable = new Set(Object.keys(options.host));
    this.hyper = tensor(tape, words, [words.length], { label: 'hyper' });
    this.slots = [...parameters].map(([name, parameter]) => {
      const state: Record<string, Tensor> = {};
      for (const key of options.stateNames) {
        state[key] = tensor(tape, new Float32Array(parameter.size), parameter.shape, {
          label: `${name}.${key}`,
        });
      }
      const ema = options.ema?.get(name);
      if (ema !== undefined)
        requireSameShape('ema', [name, `the average of ${name}`], parameter, ema);
      return { name, parameter, state, ema };
    });
    for (const row of rowsOf(this.slots)) {
      for (const key of options.stateNames) tape.gpu.join(statesOf(row, key), key);
    }
  }

  /**
   * What to launch for these gradients, in the order of the slots: a run for each row of parameters that lie side by side,
   * if their gradients can be laid so too (in a captured step), and one a parameter otherwise. The bits are the same.
   */
  runs(gradients: readonly Tensor[]): Run[] {
    const gradientOf = new Map(this.slots.map((slot, i) => [slot, at(gradients, i).storage]));
    return rowsOf(this.slots).flatMap((row) => {
      const whole = runOf(row, gradientOf);
      if (whole !== undefined) return [whole];
      return row.flatMap((slot) => runOf([slot], gradientOf) ?? []);
    });
  }

  /** Which elements of a run are a parameter's: a small table on the device, made once. */
  validOf({ slots }: Run): Storage {
    const key = slots.map(({ name }) => name).join();
    const known = this.#valid.get(key);
    if (known !== undefined) return known.storage;
    const offsets = this.#tape.gpu.offsets(slots.map((s) => s.parameter.storage)) ?? [0];
    const places = slots.map(({ parameter }, i) => ({
      from: at(offsets, i) / 4,
      n: parameter.size,
    }));
    const words = validOf(places);
    const made = tensor(this.#tape, words, [words.length], { label: 'places of gradients' });
    this.#valid.set(key, made);
    return made.storage;
  }

  /** Changes hyper-parameters from the next step on. Throws a RangeError for one that this optimiser has not. */
  set(values: HyperValues): void {
    for (const [name] of entriesOf(values)) {
      if (!this.#settable.has(name)) {
        throw new RangeError(
          `${name} cannot be set; what can is ${[...this.#settable].join(', ')}`,
        );
      }
    }
    for (const [name, value] of entriesOf(values)) this.#host[indexOf(name)] = value;
    this.hyper.gpu.write(this.hyper.storage, this.#host);
  }

  /** A hyper-parameter as the host last set it. Throws a RangeError for one that this optimiser has not. */
  get(name: keyof typeof hyperIndex): number {
    const value = this.#settable.has(name) ? this.#host[hyperIndex[name]] : undefined;
    if (value === undefined) throw new RangeError(`${name} is no number of this optimiser's`);
    return value;
  }

  /** Everything that a checkpoint needs, by name. */
  *namedState(): Generator<[string, Tensor]> {
    yield ['hyper', this.hyper];
    for (const { name, state } of this.slots) {
      for (const [key, value] of Object.entries(state)) yield [`${name}.${key}`, value];
    }
  }
}

/** Those that a step moves. */
export function movingOf(groups: readonly ParameterGroup[]): readonly ParameterGroup[] {
  return groups.filter((group) => !group.frozen);
}

/** Throws a RangeError for an average that is of no parameter: a name that was mistyped would stay as it began. */
export function checkAverages(
  optimizer: string,
  groups: readonly ParameterGroup[],
  maps: readonly (ReadonlyMap<string, Tensor> | undefined)[],
): void {
  const names = new Set(groups.flatMap((group) => group.slots.map((slot) => slot.name)));
  for (const name of maps.flatMap((map) => [...(map?.keys() ?? [])])) {
    if (!names.has(name))
      throw new RangeError(`${optimizer}: ema names ${name}, which is no parameter`);
  }
}

/** Throws a RangeError unless there is one gradient a parameter, each of its shape. Before anything is launched. */
export function checkGradients(
  optimizer: string,
  groups: readonly ParameterGroup[],
  gradients: readonly Tensor[],
): void {
  const slots = groups.flatMap((group) => group.slots);
  if (gradients.length !== slots.length) {
    throw new RangeError(
      `${optimizer}: ${gradients.length} gradients for ${slots.length} parameters`,
    );
  }
  slots.forEach(({ name, parameter }, i) => {
    requireSameShape(optimizer, [name, 'its gradient'], parameter, at(gradients, i));
  });
}

/** The slots cut into the longest rows whose parameters lie side by side, and whose averages do, if they have any. */
function rowsOf(slots: readonly Slot[]): Slot[][] {
  const rows: Slot[][] = [];
  for (const slot of slots) {
    const row = rows.at(-1);
    const longer = [...(row ?? []), slot];
    const joins = together(longer, (s) => s.parameter) && together(longer, (s) => s.ema);
    if (row !== undefined && joins) row.push(slot);
    else rows.push([slot]);
  }
  return rows;
}

/** True if the tensors lie side by side, or if there is none. */
function together(slots: readonly Slot[], tensorOf: (slot: Slot) => Tensor | undefined): boolean {
  const tensors = slots.flatMap((slot) => tensorOf(slot) ?? []);
  if (tensors.length === 0) return true;
  return tensors.length === slots.length && spanOf(tensors) !== undefined;
}

function spanOf(tensors: readonly Tensor[]): Storage | undefined {
  return tensors[0]?.gpu.together(tensors.map((t) => t.storage));
}

function statesOf(slots: readonly Slot[], key: string): Storage[] {
  return slots.flatMap(({ state }) => state[key]?.storage ?? []);
}

function runOf(slots: readonly Slot[], gradientOf: ReadonlyMap<Slot, Storage>): Run | undefined {
  const [first] = slots;
  const gpu = first?.parameter.gpu;
  const w = spanOf(slots.map((s) => s.parameter));
  const g = gpu?.together(slots.flatMap((s) => gradientOf.get(s) ?? []));
  if (first === undefined || gpu === undefined || w === undefined || g === undefined)
    return undefined;
  const state: Record<string, Storage> = {};
  for (const key of Object.keys(first.state)) {
    const span = gpu.together(statesOf(slots, key));
    if (span === undefined) return undefined;
    state[key] = span;
  }
  const ema = spanOf(slots.flatMap((s) => s.ema ?? []));
  return { slots, w, state, ema, g, n: w.bytes / 4 };
}

export function stateOf(state: Run['state'], key: string): Storage {
  const storage = state[key];
  if (storage === undefined) throw new Error(`the optimiser keeps no ${key}`);
  return storage;
}

/** Marks what an update launches. */
export function updating(
  optimizer: string,
  groups: readonly ParameterGroup[],
  update: () => void,
): void {
  groups[0]?.hyper.gpu.within({ phase: 'optimizer', layer: optimizer }, update);
}

function entriesOf(values: HyperValues): [string, number][] {
  return Object.entries<number | undefined>(values) as [string, number][];
}

function indexOf(name: string): number {
  return hyperIndex[name as keyof typeof hyperIndex];
}
