import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { constOf } from '../gpu/wgsl.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel, linearGrid, sourceOf } from './kernel.ts';

const record = {
  file: 'optim/norm.wgsl',
  dims: ['n', 'at', 'count'],
  needs: { workgroupBytes: 1024 },
} as const;
/** Elements that a workgroup of `parts` sums. */
const chunkOf = () => {
  const source = sourceOf(record.file);
  return 4 * constOf(source, 'WG') * constOf(source, 'QUADS');
};

export const normParts = kernel({
  ...record,
  entry: 'parts',
  tensors: ['g', 'valid', 'part'],
  grid: ({ count }) => linearGrid(count, 1),
  flops: ({ n }) => 2 * n,
  bytes: ({ n }) => 4 * n,
});
export const normFinish = kernel({
  ...record,
  entry: 'finish',
  tensors: ['partial', 'scaler', 'norm'],
  tile: { SCALED: 'false' },
  grid: () => [1, 1, 1],
  flops: ({ count }) => count,
  bytes: ({ count }) => 4 * count,
});

/** A row of gradients. */
export interface GradientRow {
  readonly g: Storage;
  /** Which of its elements are a tensor's, as `validOf` of optim.ts makes it. */
  readonly valid: Storage;
  readonly n: number;
}

/**
 * norm [1] = √(Σ g²) over the tensors of all rows, divided by the scale of the scaler's state if there is one; then 0 where
 * `inspectGradients` found an overflow. Two launches where the gradients are one row.
 */
export function gradientNorm(
  gpu: Gpu,
  args: {
    readonly rows: readonly GradientRow[];
    readonly norm: Storage;
    readonly scaler?: Storage | undefined;
  },
): void {
  const { rows, norm, scaler } = args;
  const chunk = chunkOf();
  const counts = rows.map(({ n }) => ceilDiv(n, chunk));
  const all = counts.reduce((sum, count) => sum + count, 0);
  const part = gpu.alloc(4 * Math.max(1, all), 'squares of gradients');
  let at = 0;
  rows.forEach(({ g, valid, n }, i) => {
    const count = counts[i] ?? 0;
    normParts.run(gpu, { tensors: { g, valid, part }, dims: { n, at, count } });
    at += count;
  });
  normFinish.run(gpu, {
    tensors: { partial: part, scaler: scaler ?? part, norm },
    dims: { n: 0, at: 0, count: all },
    tile: { SCALED: String(scaler !== undefined) },
  });
}
