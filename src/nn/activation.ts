import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { leakyRelu, relu, sigmoid, tanh } from '../ops/pointwise.ts';
import type { Activation } from '../ops/pointwise.ts';
import { Layer } from './module.ts';

/** Never in place: who holds the input still sees it. */
export class ReLU extends Layer {
  override readonly activation = { name: 'relu' } as const;

  override forward(x: Tensor): Tensor {
    return relu(x);
  }
}

export class LeakyReLU extends Layer {
  readonly negativeSlope: number;
  override readonly activation: Activation;

  constructor(tape: Tape, negativeSlope = 0.01) {
    super(tape);
    this.negativeSlope = negativeSlope;
    this.activation = { name: 'leakyRelu', negativeSlope };
  }

  override forward(x: Tensor): Tensor {
    return leakyRelu(x, this.negativeSlope);
  }
}

export class Tanh extends Layer {
  override forward(x: Tensor): Tensor {
    return tanh(x);
  }
}

export class Sigmoid extends Layer {
  override forward(x: Tensor): Tensor {
    return sigmoid(x);
  }
}
