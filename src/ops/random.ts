import { empty, tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Tape } from '../autograd/tape.ts';
import { advance, normal, randomInt, uniform } from '../kernels/random.ts';
import type { Shape } from '../util/shape.ts';

/**
 * Random numbers on the GPU: Philox 4x32-10 with key = seed and counter = (element, stream, step). Each draw of a step
 * has its own stream number, fixed when a program is captured; `advance()` at the step's end moves all of them on.
 */
export class Rng {
  readonly tape: Tape;
  readonly seed: number;
  /** {seed low, seed high, counter low, counter high} on the GPU. */
  readonly #state: Tensor;
  #stream = 0;

  constructor(tape: Tape, seed: number, counter = 0) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new RangeError(`seed ${seed} is not a whole number from 0 to 2⁵³`);
    }
    this.tape = tape;
    this.seed = seed;
    this.#state = tensor(tape, words(seed, counter), [4], { label: 'rng' });
  }

  /** Standard normal numbers, times `std`, plus `mean`. */
  normal(shape: Shape, { mean = 0, std = 1 }: { mean?: number; std?: number } = {}): Tensor {
    const out = empty(this.tape, shape, { label: 'normal' });
    normal(this.tape.gpu, { ...this.#draw(out), mean, std });
    return out;
  }

  /** Uniform numbers in [low, high). */
  uniform(shape: Shape, { low = 0, high = 1 }: { low?: number; high?: number } = {}): Tensor {
    const out = empty(this.tape, shape, { label: 'uniform' });
    uniform(this.tape.gpu, { ...this.#draw(out), low, high });
    return out;
  }

  /** Whole numbers (u32) in [0, bound). */
  int(shape: Shape, bound: number): Tensor {
    const out = empty(this.tape, shape, { dtype: 'u32', label: 'randomInt' });
    randomInt(this.tape.gpu, { ...this.#draw(out), bound });
    return out;
  }

  /** The state and the next stream of this step, for an op that draws by itself. */
  draw(): { readonly state: Tensor; readonly stream: number } {
    return { state: this.#state, stream: this.#stream++ };
  }

  /** Ends a step: the same streams give new numbers from here on. */
  advance(): void {
    advance(this.tape.gpu, { state: this.#state.storage });
    this.#stream = 0;
  }

  /** The step begins anew: its first draw is stream 0 again, also where a step before it was given up half-way. */
  begin(): void {
    this.#stream = 0;
  }

  /** Starts again at a step; `counter` steps have been taken. */
  restore(counter: number): void {
    this.#state.set(words(this.seed, counter));
    this.#stream = 0;
  }

  #draw(out: Tensor) {
    const { state, stream } = this.draw();
    return { state: state.storage, out: out.storage, n: out.size, stream };
  }
}

function words(seed: number, counter: number): Uint32Array {
  const split = (n: number) => [n >>> 0, Math.floor(n / 2 ** 32)];
  return Uint32Array.from([...split(seed), ...split(counter)]);
}
