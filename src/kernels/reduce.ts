import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import type { Shape } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';
import { unary } from './pointwise.ts';
import { powerOfTwoAbove, splitTerms } from './split.ts';
import type { Split } from './split.ts';

export type ReduceOp = 'sum' | 'max';
/** `thread`: one thread a result (software adapters, sums over outer axes). `tree`: one workgroup a result. */
export type ReduceRung = 'thread' | 'tree';

const threadDims = ['K', 'I', 'R0', 'R1', 'C0', 'C1', 'P1', 'parts', 'outputs', 'scale'] as const;
type ThreadDims = Dims<(typeof threadDims)[number]>;
const treeDims = ['K', 'R0', 'R1', 'C0', 'C1', 'P1', 'parts', 'outputs', 'W', 'scale'] as const;

const cost = {
  flops: ({ R0, R1, outputs }: Dims<'R0' | 'R1' | 'outputs'>) => R0 * R1 * outputs,
  bytes: ({ R0, R1, outputs, parts }: Dims<'R0' | 'R1' | 'outputs' | 'parts'>, each = 4) =>
    outputs * (each * R0 * R1 + 4 * parts),
};
const threads = ({ outputs, parts }: ThreadDims, tile: (name: string) => number): Grid =>
  linearGrid(outputs * parts, tile('WG'));
const threadRecord = { file: 'reduce/thread.wgsl', dims: threadDims, tile: { OP: 'SUM', WG: 64 } };

export const threadScalar = kernel({
  ...threadRecord,
  entry: 'scalar',
  tensors: ['x', 'out'],
  grid: threads,
  ...cost,
});
export const threadQuadsAlongR = kernel({
  ...threadRecord,
  entry: 'quadsAlongR',
  tensors: ['xQuads', 'out'],
  grid: threads,
  ...cost,
});
export const threadQuadsAlongI = kernel({
  ...threadRecord,
  entry: 'quadsAlongI',
  tensors: ['xQuads', 'outQuads'],
  grid: ({ outputs, parts }, tile) => linearGrid((outputs / 4) * parts, tile('WG')),
  ...cost,
});
export const tree = kernel({
  file: 'reduce/tree.wgsl',
  tensors: ['x', 'out'],
  dims: treeDims,
  tile: { OP: 'SUM', WG: 256 },
  grid: ({ outputs, parts }) => linearGrid(outputs * parts, 1),
  ...cost,
  needs: { workgroupBytes: 1024 },
});

export interface ReduceArgs {
  readonly x: Storage;
  readonly out: Storage;
  /** Shape of x. */
  readonly shape: Shape;
  /** Reduced axes, from 0, in any order. */
  readonly axes: readonly number[];
  /** Multiplies the result: 1/count makes a mean. Default 1. */
  readonly scale?: number;
  /** What x is made of; results are f32. */
  readonly stored?: Stored;
  /** Default: chosen for the adapter. */
  readonly rung?: ReduceRung;
}

/** The five-axis view of one pass: R0 and R1 are reduced. */
interface View {
  readonly O: number;
  readonly R0: number;
  readonly K: number;
  readonly R1: number;
  readonly I: number;
}

interface AxisGroup {
  readonly size: number;
  readonly reduced: boolean;
}

/**
 * out = scale · Σ x (or max) over `axes`, in a fixed order: the same bits every time. One pass where at most two runs
 * of reduced axes are left after neighbours are joined, one more for each further run, and one more where few results
 * have many terms, so that every core has work.
 */
export function reduce(gpu: Gpu, op: ReduceOp, args: ReduceArgs): void {
  const { out, shape, axes, scale = 1, rung } = args;
  let { x, stored = 'f32' } = args;
  let groups = groupsOf(shape, axes);
  while (groups.filter((g) => g.reduced).length > 2) {
    const last = groups.findLastIndex((g) => g.reduced);
    const view = viewOf([
      { size: product(groups.slice(0, last)), reduced: false },
      ...groups.slice(last),
    ]);
    const next = gpu.alloc(4 * view.O * view.I, `reduce ${op} pass`);
    pass(gpu, op, { x, out: next, view, scale: 1, rung, stored });
    x = next;
    stored = 'f32';
    groups = joined(groups.filter((_g, i) => i !== last));
  }
  if (groups.every((g) => !g.reduced)) {
    const n = product(groups);
    // From f16 to f32: sums of one term.
    const view = { O: 1, R0: 1, K: 1, R1: 1, I: n };
    if (stored === 'f16') pass(gpu, op, { x, out, view, scale, rung, stored });
    else unary(gpu, 'affine', { x, out, n, a: scale, b: 0 });
    return;
  }
  pass(gpu, op, { x, out, view: viewOf(groups), scale, rung, stored });
}

function groupsOf(shape: Shape, axes: readonly number[]): AxisGroup[] {
  return joined(
    shape.map((size, i) => ({ size, reduced: axes.includes(i) })).filter((g) => g.size !== 1),
  );
}

function joined(groups: readonly AxisGroup[]): AxisGroup[] {
  const out: AxisGroup[] = [];
  for (const group of groups) {
    const last = out.at(-1);
    if (last !== undefined && last.reduced === group.reduced) {
      out[out.length - 1] = { size: last.size * group.size, reduced: group.reduced };
    } else out.push(group);
  }
  return out;
}

const product = (groups: readonly AxisGroup[]) => groups.reduce((n, g) => n * g.size, 1);

function viewOf(groups: readonly AxisGroup[]): View {
  const first = groups.findIndex((g) => g.reduced);
  const last = groups.findLastIndex((g) => g.reduced);
  const two = last > first;
  return {
    O: product(groups.slice(0, first)),
    R0: two ? product(groups.slice(first, first + 1)) : 1,
    K: two ? product(groups.slice(first + 1, last)) : 1,
    R1: product(groups.slice(last, last + 1)),
    I: product(groups.slice(last + 1)),
  };
}

interface PassArgs {
  readonly x: Storage;
  readonly out: Storage;
  readonly view: View;
  readonly scale: number;
  readonly rung: ReduceRung | undefined;
  readonly stored: Stored;
}

function pass(gpu: Gpu, op: ReduceOp, args: PassArgs): void {
  const { x, out, view, scale, stored } = args;
  const rung = args.rung ?? chooseReduce(gpu, view);
  const split = splitOf(gpu, view, rung);
  if (split.parts === 1) {
    launch(gpu, op, { x, out, view, scale, rung, split, stored });
    return;
  }
  const outputs = view.O * view.K * view.I;
  const partial = gpu.alloc(4 * outputs * split.parts, `reduce ${op} parts`);
  launch(gpu, op, { x, out: partial, view, scale: 1, rung, split, stored });
  const again: View = { O: 1, R0: 1, K: 1, R1: split.parts, I: outputs };
  launch(gpu, op, {
    x: partial,
    out,
    view: again,
    scale,
    rung: args.rung ?? chooseReduce(gpu, again),
    split: { parts: 1, P1: 1, C0: 1, C1: again.R1 },
    stored: 'f32',
  });
}

/** The rung for an adapter: workgroups that join in a tree pay on a GPU, and only along the innermost axis. */
export function chooseReduce(gpu: Gpu, { R0, R1, I }: View): ReduceRung {
  return gpu.adapter.kind !== 'software' && I === 1 && R0 * R1 >= 64 ? 'tree' : 'thread';
}

/** Cuts the terms where there are fewer results than threads (workgroups, for the tree) that the adapter wants. */
function splitOf(gpu: Gpu, { O, R0, K, R1, I }: View, rung: ReduceRung): Split {
  const software = gpu.adapter.kind === 'software';
  const byTree = rung === 'tree' && I === 1;
  const wanted = byTree ? 1024 : software ? 512 : 32768;
  const fewestTerms = byTree ? 2048 : software ? 16384 : 64;
  const outputs = O * K * I;
  const units = !byTree && I % 4 === 0 ? outputs / 4 : outputs;
  return splitTerms({ units, R0, R1, wanted, fewestTerms });
}

function launch(
  gpu: Gpu,
  op: ReduceOp,
  args: Omit<PassArgs, 'rung'> & { rung: ReduceRung; split: Split },
): void {
  const { x, out, view, scale, rung, split, stored } = args;
  const { O, R0, K, R1, I } = view;
  const dims = { R0, K, R1, ...split, outputs: O * K * I, scale };
  const OP = op === 'max' ? 'MAX' : 'SUM';
  if (rung === 'tree' && I === 1) {
    const W = Math.min(256, powerOfTwoAbove(split.C1));
    tree.run(gpu, { tensors: { x, out }, dims: { ...dims, W }, tile: { OP }, stored });
    return;
  }
  // Few threads: small workgroups, so that every core gets some.
  const tile = { OP, WG: dims.outputs * dims.parts < 4096 ? 16 : 64 };
  const rest = { dims: { ...dims, I }, tile, stored };
  if (I % 4 === 0) {
    const tensors = { xQuads: x, outQuads: out };
    threadQuadsAlongI.run(gpu, { tensors, ...rest });
  } else if (I === 1 && R1 % 4 === 0 && split.C1 % 4 === 0) {
    threadQuadsAlongR.run(gpu, { tensors: { xQuads: x, out }, ...rest });
  } else threadScalar.run(gpu, { tensors: { x, out }, ...rest });
}
