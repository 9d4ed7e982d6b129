import type { Tape } from '../autograd/tape.ts';
import { at } from '../autograd/op.ts';
import { requireSameShape, tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { hyperIndex, hyperWords } from '../kernels/optim.ts';

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

/**
 * A group of parameters with one buffer of hyper-parameters on the GPU. The first words belong to the host, which may
 * rewrite them between steps (learning rates); the others (step count, powers of beta) are moved by the GPU, so that a
 * captured step needs nothing from the host.
 */
export class ParameterGroup {
  readonly hyper: Tensor;
  readonly slots: readonly Slot[];
  readonly #host: Float32Array;
  readonly #settable: ReadonlySet<string>;

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

  /** Everything that a checkpoint needs, by name. */
  *namedState(): Generator<[string, Tensor]> {
    yield ['hyper', this.hyper];
    for (const { name, state } of this.slots) {
      for (const [key, value] of Object.entries(state)) yield [`${name}.${key}`, value];
    }
  }
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
