import { to } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { linear } from '../ops/matmul.ts';
import { add } from '../ops/pointwise.ts';
import { WeightedLayer, floatTypeOf } from './weighted.ts';
import type { WeightOptions } from './weighted.ts';

/** y = x·Wᵀ + b; x [..., inFeatures] → [..., outFeatures]. torch.nn.Linear. */
export class Linear extends WeightedLayer {
  constructor(tape: Tape, inFeatures: number, outFeatures: number, options: WeightOptions) {
    super(tape, { weight: [outFeatures, inFeatures], bias: [outFeatures] }, options);
  }

  override forward(x: Tensor): Tensor {
    const y = linear(x, this.weight(x));
    return this.bias === undefined ? y : add(y, to(this.bias, floatTypeOf(y)));
  }
}
