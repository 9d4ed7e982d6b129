import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { mapWithLse, materialised, readsVec4, registers, tiles } from './attention-rungs.ts';
import type {
  AttentionArgs,
  AttentionBackwardArgs,
  AttentionDims,
  AttentionRung,
} from './attention-rungs.ts';

/** The rungs, simplest first. */
export const attentionLadder: readonly AttentionRung[] = [materialised, registers, tiles];

const smallMapBytes = 2 ** 26;
const widestQueries = 32;

/**
 * A fused rung, which keeps no N×N map: registers alone for a CPU driver, workgroup tiles for a GPU. While the map is
 * small, a CPU driver goes through it where the fused rung is slow: wide queries, and positions that cannot be read four
 * at a time (odd feature maps).
 */
export function chooseAttention(gpu: Gpu, dims: AttentionDims): AttentionRung {
  if (gpu.adapter.kind !== 'software') return tiles;
  const { B, Nq, Nk, DK } = dims;
  const suited = readsVec4(dims) && DK <= widestQueries;
  return suited || 4 * B * Nq * Nk > smallMapBytes ? registers : materialised;
}

/**
 * out = softmax(scale·QKᵀ)·V and lse [B, Nq] = log Σ exp(scale·q·k).
 * `channel`: Q [B, DK, Nq], K [B, DK, Nk], V [B, DV, Nk] → out [B, DV, Nq]; `sequence`: Q [B, Nq, DK], K [B, Nk, DK],
 * V [B, Nk, DV] → out [B, Nq, DV].
 */
export function attention(gpu: Gpu, args: AttentionArgs): void {
  chooseAttention(gpu, args).forward(gpu, args);
}

/** dOut → dq, dk, dv in the layouts of q, k, v; one left out is not computed. `out` and `lse` are forward's. */
export function attentionBackward(gpu: Gpu, args: AttentionBackwardArgs): void {
  chooseAttention(gpu, args).backward(gpu, args);
}

/** out [B, Nq, Nk] = softmax(scale·QKᵀ), the map that the fused kernels never store: for a viewer. */
export function attentionMap(
  gpu: Gpu,
  args: Omit<AttentionDims, 'DV'> & { q: Storage; k: Storage; out: Storage },
): void {
  gpu.scope(() => {
    const lse = gpu.alloc(4 * args.B * args.Nq, 'attention lse');
    mapWithLse(gpu, { ...args, lse });
  });
}
