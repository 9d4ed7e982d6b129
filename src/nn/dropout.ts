import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { dropout } from '../ops/dropout.ts';
import type { Rng } from '../ops/random.ts';
import { Layer } from './module.ts';

/** torch.nn.Dropout: in training an element is 0 with probability p, by the next draw of `rng`; x itself in evaluation. */
export class Dropout extends Layer {
  readonly #p: number;
  readonly #rng: Rng;

  constructor(tape: Tape, p: number, rng: Rng) {
    super(tape);
    this.#p = p;
    this.#rng = rng;
  }

  override forward(x: Tensor): Tensor {
    return this.training ? dropout(x, this.#p, this.#rng) : x;
  }
}
