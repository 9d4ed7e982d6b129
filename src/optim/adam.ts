import type { Tape } from '../autograd/tape.ts';
import { at } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { adam, adamAdvance } from '../kernels/optim.ts';
import { ParameterGroup, checkAverages, checkGradients, updating } from './optimizer.ts';
import type { NamedParameters } from './optimizer.ts';

export interface AdamOptions {
  readonly lr?: number;
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  /** L2 penalty added to the gradient, as torch.optim.Adam's. */
  readonly weightDecay?: number;
  /** Averages of the parameters by name, moved in the same pass: ema ← decay·ema + (1 − decay)·w. */
  readonly ema?: ReadonlyMap<string, Tensor>;
  readonly emaDecay?: number;
}

/** Parameters with options of their own; what is absent comes from the optimiser's options. */
export interface AdamGroup extends AdamOptions {
  readonly params: NamedParameters;
}

/** torch.optim.Adam (Kingma & Ba 2015), fused with the moving average of the weights. */
export class Adam {
  readonly groups: readonly ParameterGroup[];

  constructor(tape: Tape, groups: readonly AdamGroup[], options: AdamOptions = {}) {
    this.groups = groups.map((group) => {
      const all = { ...options, ...group };
      const [beta1, beta2] = all.betas ?? [0.9, 0.999];
      return new ParameterGroup(tape, group.params, {
        host: {
          lr: all.lr ?? 1e-3,
          beta1,
          beta2,
          eps: all.eps ?? 1e-8,
          weightDecay: all.weightDecay ?? 0,
          emaDecay: all.emaDecay ?? 0.999,
        },
        device: { beta1Power: 1, beta2Power: 1, step: 0 },
        stateNames: ['exp_avg', 'exp_avg_sq'],
        ema: all.ema,
      });
    });
    checkAverages('Adam', this.groups, [options.ema, ...groups.map((group) => group.ema)]);
  }

  /** Every parameter, in the order in which `step` wants the gradients. */
  parameters(): Tensor[] {
    return this.groups.flatMap((g) => g.slots.map((s) => s.parameter));
  }

  /** One update in place; launches only, so it can be captured. */
  step(gradients: readonly Tensor[]): void {
    checkGradients('Adam', this.groups, gradients);
    updating('Adam', this.groups, () => {
      this.#update(gradients);
    });
  }

  #update(gradients: readonly Tensor[]): void {
    let i = 0;
    for (const { hyper, slots } of this.groups) {
      const gpu = hyper.gpu;
      adamAdvance(gpu, { hyper: hyper.storage });
      for (const { parameter, state, ema } of slots) {
        adam(gpu, {
          w: parameter.storage,
          g: at(gradients, i++).storage,
          m: stateOf(state, 'exp_avg').storage,
          v: stateOf(state, 'exp_avg_sq').storage,
          hyper: hyper.storage,
          ...(ema === undefined ? {} : { ema: ema.storage }),
          n: parameter.size,
        });
      }
    }
  }

  /** State for a checkpoint: `<group>.<parameter>.exp_avg`, … */
  *namedState(): Generator<[string, Tensor]> {
    for (const [i, group] of this.groups.entries()) {
      for (const [name, value] of group.namedState()) yield [`${i}.${name}`, value];
    }
  }
}

export function stateOf(state: Readonly<Record<string, Tensor>>, key: string): Tensor {
  const value = state[key];
  if (value === undefined) throw new Error(`the optimiser keeps no ${key}`);
  return value;
}
