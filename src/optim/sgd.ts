import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { sgd, sgdAdvance } from '../kernels/optim.ts';
import {
  ParameterGroup,
  checkAverages,
  checkGradients,
  movingOf,
  stateOf,
  updating,
} from './optimizer.ts';
import type { NamedParameters } from './optimizer.ts';

export interface SgdOptions {
  readonly lr?: number;
  readonly momentum?: number;
  readonly nesterov?: boolean;
  readonly weightDecay?: number;
  /** Averages of the parameters by name, moved after each step: ema ← decay·ema + (1 − decay)·w. */
  readonly ema?: ReadonlyMap<string, Tensor>;
  readonly emaDecay?: number;
}

export interface SgdGroup extends SgdOptions {
  readonly params: NamedParameters;
}

/** torch.optim.SGD: the first step's momentum buffer is the gradient itself, as PyTorch's. */
export class SGD {
  readonly groups: readonly ParameterGroup[];
  readonly #nesterov: readonly boolean[];
  readonly #momentum: readonly boolean[];

  constructor(tape: Tape, groups: readonly SgdGroup[], options: SgdOptions = {}) {
    const resolved = groups.map((group) => ({ ...options, ...group }));
    this.#nesterov = resolved.map((g) => g.nesterov ?? false);
    this.#momentum = resolved.map((g) => (g.momentum ?? 0) !== 0);
    this.groups = resolved.map((all, i) => {
      if (this.#nesterov[i] === true && this.#momentum[i] !== true) {
        throw new RangeError('SGD: nesterov needs a momentum above 0');
      }
      return new ParameterGroup(tape, all.params, {
        host: {
          lr: all.lr ?? 1e-3,
          weightDecay: all.weightDecay ?? 0,
          emaDecay: all.emaDecay ?? 0.999,
          // Without a buffer there is nothing for a momentum to move.
          ...(this.#momentum[i] === true ? { momentum: all.momentum ?? 0 } : {}),
        },
        device: { step: 0 },
        stateNames: this.#momentum[i] === true ? ['momentum_buffer'] : [],
        ema: all.ema,
      });
    });
    checkAverages('SGD', this.groups, [options.ema, ...groups.map((group) => group.ema)]);
  }

  /** Every parameter of groups that are not frozen. */
  parameters(): Tensor[] {
    return movingOf(this.groups).flatMap((g) => g.slots.map((s) => s.parameter));
  }

  /** One update in place; gradients in the order of `parameters()`. */
  step(gradients: readonly Tensor[]): void {
    checkGradients('SGD', movingOf(this.groups), gradients);
    updating('SGD', this.groups, () => {
      this.#update(gradients);
    });
  }

  #update(gradients: readonly Tensor[]): void {
    let i = 0;
    this.groups.forEach((group, k) => {
      if (group.frozen) return;
      const { gpu, storage: hyper } = group.hyper;
      sgdAdvance(gpu, { hyper });
      const mine = gradients.slice(i, (i += group.slots.length));
      for (const { w, g, ema, n, state } of group.runs(mine)) {
        sgd(gpu, {
          ...{ w, g, hyper, n, nesterov: this.#nesterov[k] === true },
          ...(this.#momentum[k] === true ? { momentum: stateOf(state, 'momentum_buffer') } : {}),
          ...(ema === undefined ? {} : { ema }),
        });
      }
    });
  }

  *namedState(): Generator<[string, Tensor]> {
    for (const [i, group] of this.groups.entries()) {
      for (const [name, value] of group.namedState()) yield [`${i}.${name}`, value];
    }
  }
}
