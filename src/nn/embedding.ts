import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { embedding } from '../ops/embedding.ts';
import { normal } from './init.ts';
import { WeightedLayer } from './weighted.ts';
import type { WeightOptions } from './weighted.ts';

/** torch.nn.Embedding: index [n] (u32) → [n, dim]; weight [count, dim], N(0, 1) unless `init` says otherwise. */
export class Embedding extends WeightedLayer {
  constructor(tape: Tape, count: number, dim: number, options: WeightOptions) {
    super(tape, { weight: [count, dim] }, { ...options, init: options.init ?? normal(1) });
  }

  override forward(index: Tensor): Tensor {
    return embedding(index, this.weight(index));
  }
}
