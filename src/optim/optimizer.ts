import type { Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
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

  constructor(
    tape: Tape,
    parameters: NamedParameters,
    options: {
      /** Values of the host's words. */
      readonly host: HyperValues;
      /** First values of the GPU's words. */
      readonly device: HyperValues;
      readonly stateNames: readonly string[];
      /** Averages by parameter name. */
      readonly ema?: ReadonlyMap<string, Tensor> | undefined;
    },
  ) {
    const words = new Float32Array(hyperWords);
    for (const [name, value] of entriesOf({ ...options.host, ...options.device })) {
      words[indexOf(name)] = value;
    }
    const hostCount = 1 + Math.max(...Object.keys(options.host).map((k) => indexOf(k)));
    this.#host = words.slice(0, hostCount);
    this.hyper = tensor(tape, words, [words.length], { label: 'hyper' });
    this.slots = [...parameters].map(([name, parameter]) => {
      const state: Record<string, Tensor> = {};
      for (const key of options.stateNames) {
        state[key] = tensor(tape, new Float32Array(parameter.size), parameter.shape, {
          label: `${name}.${key}`,
        });
      }
      return { name, parameter, state, ema: options.ema?.get(name) };
    });
  }

  /** Changes hyper-parameters from the next step on. */
  set(values: HyperValues): void {
    for (const [name, value] of entriesOf(values)) {
      const i = indexOf(name);
      if (i >= this.#host.length) throw new Error(`${name} is moved by the GPU and cannot be set`);
      this.#host[i] = value;
    }
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

function entriesOf(values: HyperValues): [string, number][] {
  return Object.entries<number | undefined>(values) as [string, number][];
}

function indexOf(name: string): number {
  return hyperIndex[name as keyof typeof hyperIndex];
}
