import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { forwardCost } from './attention-common.ts';
import type {
  AttentionArgs,
  AttentionBackwardArgs,
  AttentionDims,
  BackwardRung,
  ForwardRung,
} from './attention-common.ts';
import { mapWithLse, materialisedBackward, materialisedForward } from './attention-map.ts';
import {
  lanesBackward,
  lanesForward,
  readsVec4,
  registersBackward,
  registersForward,
  rowsBackward,
  rowsForward,
  subgroupsBackward,
  subgroupsForward,
  threadsBackward,
  threadsForward,
  tilesBackward,
  tilesForward,
} from './attention-rungs.ts';
import { climb } from './rung.ts';
import type { Ladder } from './rung.ts';

type Input = 'q' | 'k' | 'v' | 'out' | 'lse';

function inputsOf({ B, Nq, Nk, DK, DV }: AttentionDims): Record<Input, number> {
  return { q: B * Nq * DK, k: B * Nk * DK, v: B * Nk * DV, out: B * Nq * DV, lse: B * Nq };
}

function bytesOf(operands: Readonly<Record<string, number>>): number {
  return 4 * Object.values(operands).reduce((sum, n) => sum + n, 0);
}

const dimsOf = ({ B, Nq, Nk, DK, DV, scale, layout }: AttentionDims): AttentionDims => ({
  ...{ B, Nq, Nk, DK, DV, scale, layout },
});

const smallMapBytes = 2 ** 26;
const widestQueries = 32;
type Named = Pick<ForwardRung | BackwardRung, 'name'>;
type Candidates = Readonly<Record<'map' | 'threads' | 'lanes' | 'registers' | 'subgroups', Named>>;

/**
 * Fused rungs, which keep no N×N map: lanes or threads alone for a CPU driver, workgroup tiles for a GPU. While the map is
 * small, a CPU driver without subgroups goes through it where its threads are slow: wide queries, and positions that
 * cannot be read four at a time (odd feature maps).
 */
function preferredOf({ map, threads, lanes, registers, subgroups }: Candidates) {
  const names = (...rungs: Named[]) => rungs.map(({ name }) => name);
  return (gpu: Gpu, dims: AttentionDims): readonly string[] => {
    if (gpu.adapter.kind !== 'software') return names(subgroups, registers);
    const { B, Nq, Nk, DK } = dims;
    const suited = readsVec4(dims) && DK <= widestQueries;
    if (suited || 4 * B * Nq * Nk > smallMapBytes) return names(lanes, threads);
    return names(lanes, map, threads);
  };
}

/** out = softmax(scale·QKᵀ)·V and its log-sum-exp, simplest rung first. */
export const attentionForwardLadder: Ladder<AttentionDims, AttentionArgs, Input> = {
  name: 'attention-forward',
  rungs: [
    materialisedForward,
    rowsForward,
    tilesForward,
    registersForward,
    subgroupsForward,
    threadsForward,
    lanesForward,
  ],
  preferred: preferredOf({
    map: materialisedForward,
    threads: threadsForward,
    lanes: lanesForward,
    registers: registersForward,
    subgroups: subgroupsForward,
  }),
  dimsOf,
  operands: inputsOf,
  outputs: ['out', 'lse'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: forwardCost.flops,
  bytes: (dims) => bytesOf(inputsOf(dims)),
};

/** dOut → dq, dk, dv, simplest rung first; it may be another rung than the one that went forward. */
export const attentionBackwardLadder: Ladder<
  AttentionDims,
  AttentionBackwardArgs,
  Input | 'dOut' | 'dq' | 'dk' | 'dv'
> = {
  name: 'attention-backward',
  rungs: [
    materialisedBackward,
    rowsBackward,
    tilesBackward,
    registersBackward,
    subgroupsBackward,
    threadsBackward,
    lanesBackward,
  ],
  preferred: preferredOf({
    map: materialisedBackward,
    threads: threadsBackward,
    lanes: lanesBackward,
    registers: registersBackward,
    subgroups: subgroupsBackward,
  }),
  dimsOf,
  operands: (dims) => {
    const { q, k, v, out, lse } = inputsOf(dims);
    return { q, k, v, out, lse, dOut: out, dq: q, dk: k, dv: v };
  },
  outputs: ['dq', 'dk', 'dv'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  // S, dP, dq, dk and dv are a product each.
  flops: ({ B, Nq, Nk, DK, DV }) => 2 * B * Nq * Nk * (3 * DK + 2 * DV),
  bytes: (dims) => bytesOf(attentionBackwardLadder.operands(dims)),
};

/**
 * out = softmax(scale·QKᵀ)·V and lse [B, Nq] = log Σ exp(scale·q·k).
 * `channel`: Q [B, DK, Nq], K [B, DK, Nk], V [B, DV, Nk] → out [B, DV, Nq]; `sequence`: Q [B, Nq, DK], K [B, Nk, DK],
 * V [B, Nk, DV] → out [B, Nq, DV].
 */
export function attention(gpu: Gpu, args: AttentionArgs): void {
  climb(gpu, attentionForwardLadder, args);
}

/** dOut → dq, dk, dv in the layouts of q, k, v; one left out is not computed. `out` and `lse` are forward's. */
export function attentionBackward(gpu: Gpu, args: AttentionBackwardArgs): void {
  climb(gpu, attentionBackwardLadder, args);
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
