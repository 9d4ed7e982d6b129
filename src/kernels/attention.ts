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
import { attentionBackwardMatrix, attentionMatrix } from './attention-matrix.ts';
import {
  halvesBackward,
  halvesForward,
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
import { bytesOf, mayRound, precisionOf, storedOf } from './precision.ts';
import { residual as addResidual } from './residual.ts';
import { choose, climb, runPicked } from './rung.ts';
import type { Ladder } from './rung.ts';

type Input = 'q' | 'k' | 'v' | 'out' | 'lse';

function inputsOf({ B, Nq, Nk, DK, DV }: AttentionDims): Record<Input, number> {
  return { q: B * Nq * DK, k: B * Nk * DK, v: B * Nk * DV, out: B * Nq * DV, lse: B * Nq };
}

/** Bytes of all operands: lse is f32 always. */
function bytesFor(dims: AttentionDims, operands: Readonly<Record<string, number>>): number {
  const { lse = 0, ...others } = operands;
  return 4 * lse + bytesOf(dims) * Object.values(others).reduce((sum, n) => sum + n, 0);
}

const dimsOf = (args: AttentionDims): AttentionDims => {
  const { B, Nq, Nk, DK, DV, scale, layout } = args;
  return { B, Nq, Nk, DK, DV, scale, layout, ...precisionOf(args) };
};

/** What both passes have of tensors that `stored` speaks of. */
function swapped(
  { q, k, v, out }: AttentionArgs,
  swap: (operand: 'q' | 'k' | 'v' | 'out', storage: Storage) => Storage,
) {
  return { q: swap('q', q), k: swap('k', k), v: swap('v', v), out: swap('out', out) };
}

const smallMapBytes = 2 ** 26;
const widestQueries = 32;
type Named = Pick<ForwardRung | BackwardRung, 'name'>;
type Candidate = 'map' | 'registers' | 'subgroups' | 'halves' | 'matrix' | 'threads' | 'lanes';

/**
 * Fused rungs, which keep no N×N map: lanes or threads alone for a CPU driver, workgroup tiles for a GPU, with operands
 * of f16 where they may be. While the map is small, a CPU driver without subgroups goes through it where its threads are
 * slow: wide queries, and positions that cannot be read four at a time (odd feature maps).
 */
function preferredOf(rungs: Readonly<Record<Candidate, Named>>) {
  const { map, registers, subgroups, halves, matrix, threads, lanes } = rungs;
  const names = (...chosen: Named[]) => chosen.map(({ name }) => name);
  return (gpu: Gpu, dims: AttentionDims): readonly string[] => {
    if (gpu.adapter.kind !== 'software') {
      const floats = names(subgroups, registers);
      return mayRound(dims) ? [...names(matrix, halves), ...floats] : floats;
    }
    const { B, Nq, Nk, DK } = dims;
    const suited = readsVec4(dims) && DK <= widestQueries;
    if (suited || 4 * B * Nq * Nk > smallMapBytes) return names(lanes, threads);
    return names(lanes, map, threads);
  };
}

/** The ways forward, simplest first. */
export const forwardRungs: readonly ForwardRung[] = [
  materialisedForward,
  rowsForward,
  tilesForward,
  registersForward,
  subgroupsForward,
  halvesForward,
  attentionMatrix,
  threadsForward,
  lanesForward,
];

/** out = softmax(scale·QKᵀ)·V and its log-sum-exp. */
export const attentionForwardLadder: Ladder<AttentionDims, AttentionArgs, Input> = {
  name: 'attention-forward',
  rungs: forwardRungs,
  preferred: preferredOf({
    map: materialisedForward,
    registers: registersForward,
    subgroups: subgroupsForward,
    halves: halvesForward,
    matrix: attentionMatrix,
    threads: threadsForward,
    lanes: lanesForward,
  }),
  dimsOf,
  operands: inputsOf,
  outputs: ['out', 'lse'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: forwardCost.flops,
  bytes: (dims) => bytesFor(dims, inputsOf(dims)),
  halves: ['q', 'k', 'v', 'out'],
  inFloats: (args, swap) => ({ ...args, ...swapped(args, swap), stored: undefined }),
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
    halvesBackward,
    attentionBackwardMatrix,
    threadsBackward,
    lanesBackward,
  ],
  preferred: preferredOf({
    map: materialisedBackward,
    registers: registersBackward,
    subgroups: subgroupsBackward,
    halves: halvesBackward,
    matrix: attentionBackwardMatrix,
    threads: threadsBackward,
    lanes: lanesBackward,
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
  bytes: (dims) => bytesFor(dims, attentionBackwardLadder.operands(dims)),
  halves: ['q', 'k', 'v', 'out', 'dOut', 'dq', 'dk', 'dv'],
  inFloats: (args, swap) => {
    const { dOut, dq, dk, dv } = args;
    return {
      ...args,
      ...swapped(args, swap),
      dOut: swap('dOut', dOut),
      dq: dq && swap('dq', dq),
      dk: dk && swap('dk', dk),
      dv: dv && swap('dv', dv),
      stored: undefined,
    };
  },
};

/**
 * out = softmax(scale·QKᵀ)·V and lse [B, Nq] = log Σ exp(scale·q·k).
 * `channel`: Q [B, DK, Nq], K [B, DK, Nk], V [B, DV, Nk] → out [B, DV, Nq]; `sequence`: Q [B, Nq, DK], K [B, Nk, DK],
 * V [B, Nk, DV] → out [B, Nq, DV].
 */
export function attention(gpu: Gpu, args: AttentionArgs): void {
  climb(gpu, attentionForwardLadder, args);
}

export interface AttentionResidualArgs extends Omit<AttentionArgs, 'out' | 'residual'> {
  /** [1], f32. */
  readonly gamma: Storage;
  /** In the layout and of the element type of out, as is joined. */
  readonly shortcut: Storage;
  readonly joined: Storage;
  /** What `attention` gives, if a backward pass will read it. */
  readonly out?: Storage | undefined;
}

/** joined = gamma·out + shortcut with attention's out: in its last pass where the rung can, otherwise in a launch behind it. */
export function attentionResidual(gpu: Gpu, args: AttentionResidualArgs): void {
  const { gamma, shortcut, joined, out: kept, ...rest } = args;
  const dims = dimsOf(args);
  const picked = choose(gpu, attentionForwardLadder, dims);
  const rung = forwardRungs.find(({ name }) => name === picked.rung.name);
  const fused = !picked.widened && rung?.joins?.(dims) === true;
  gpu.scope(() => {
    const n = inputsOf(dims).out;
    const out = kept ?? gpu.alloc(fused ? 16 : bytesOf(dims) * n, 'attention nobody keeps');
    const residual = { gamma, shortcut, joined, keepOut: kept !== undefined };
    const plain = { ...rest, out };
    runPicked(gpu, {
      ladder: attentionForwardLadder,
      args: fused ? { ...plain, residual } : plain,
      picked,
    });
    if (!fused) {
      addResidual(gpu, { o: out, gamma, x: shortcut, out: joined, n, stored: storedOf(dims) });
    }
  });
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
