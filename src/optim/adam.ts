import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { gradientNorm } from '../kernels/gradient-norm.ts';
import { adam, adamAdvance, inspectGradients } from '../kernels/optim.ts';
import {
  ParameterGroup,
  checkAverages,
  checkGradients,
  movingOf,
  stateOf,
  updating,
} from './optimizer.ts';
import type { NamedParameters } from './optimizer.ts';
import type { GradScaler } from './scaler.ts';

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

  /** Every parameter of groups that are not frozen, in the order in which `step` wants the gradients. */
  parameters(): Tensor[] {
    return movingOf(this.groups).flatMap((g) => g.slots.map((s) => s.parameter));
  }

  /**
   * One update in place; launches only, so it can be captured. With a scaler the gradients are times its scale, and one that
   * is not finite leaves everything as it was. `norm`, of one element, is given the length of all gradients as one vector,
   * without the scale: 0 for a step that is left out. Its last bits hang on which gradients lie side by side.
   */
  step(
    gradients: readonly Tensor[],
    { scaler, norm }: { readonly scaler?: GradScaler | undefined; readonly norm?: Tensor } = {},
  ): void {
    checkGradients('Adam', movingOf(this.groups), gradients);
    updating('Adam', this.groups, () => {
      this.#update(gradients, scaler?.state.storage, norm?.storage);
    });
  }

  #update(
    gradients: readonly Tensor[],
    scaler: Tensor['storage'] | undefined,
    norm: Tensor['storage'] | undefined,
  ): void {
    let i = 0;
    const groups = movingOf(this.groups).map((group) => {
      const mine = gradients.slice(i, (i += group.slots.length));
      return { group, runs: group.runs(mine) };
    });
    if (scaler !== undefined) {
      // All of them before any is used: one that overflowed stops the whole step.
      for (const { group, runs } of groups) {
        for (const run of runs) {
          const { gpu } = group.hyper;
          inspectGradients(gpu, { g: run.g, valid: group.validOf(run), scaler, n: run.n });
        }
      }
    }
    const gpu = this.groups[0]?.hyper.gpu;
    if (norm !== undefined && gpu !== undefined) {
      const rows = groups.flatMap(({ group, runs }) =>
        runs.map((run) => ({ g: run.g, valid: group.validOf(run), n: run.n })),
      );
      gradientNorm(gpu, { rows, norm, scaler });
    }
    for (const { group, runs } of groups) {
      const { gpu, storage: hyper } = group.hyper;
      adamAdvance(gpu, { hyper, scaler });
      for (const { w, g, ema, n, state } of runs) {
        const [m, v] = [stateOf(state, 'exp_avg'), stateOf(state, 'exp_avg_sq')];
        adam(gpu, { w, g, m, v, hyper, scaler, ema, n });
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
