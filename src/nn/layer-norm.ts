import type { Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { layerNorm } from '../ops/layer-norm.ts';
import { HostRng } from '../util/philox.ts';
import { ones, zeros } from './init.ts';
import type { Init } from './init.ts';
import { Layer } from './module.ts';

/** torch.nn.LayerNorm over the last axis: x […, features] → […, features]; weight from 1, bias from 0. */
export class LayerNorm extends Layer {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly #eps: number;

  constructor(tape: Tape, features: number, { eps = 1e-5 }: { readonly eps?: number } = {}) {
    super(tape);
    this.#eps = eps;
    // Constants: nothing is drawn.
    const rng = new HostRng(0);
    const make = (label: string, init: Init) =>
      tensor(tape, init([features], rng), [features], { label, requiresGrad: true });
    this.weight = this.parameter('weight', make('weight', ones));
    this.bias = this.parameter('bias', make('bias', zeros));
  }

  override forward(x: Tensor): Tensor {
    return layerNorm(x, { weight: this.weight, bias: this.bias, eps: this.#eps });
  }
}
