// What a transposed convolution multiplies: the pairs of pixel and tap that meet, and none of the zeros that the naive
// method inserts. Counted by loops over all pairs, against the plan, the phases and the flops of the launches.
import { afterAll, describe, expect, test } from 'vitest';
import { listAdapterSummaries } from '../../src/gpu/adapter.ts';
import { Gpu } from '../../src/gpu/device.ts';
import { convDataGradLadder } from '../../src/kernels/conv.ts';
import { phaseWords, planWindow } from '../../src/kernels/conv-window.ts';
import { rungNamed } from '../../src/kernels/rung.ts';
import type { ConvDims } from '../../src/kernels/conv.ts';
import { gatherThreads, phaseStrides, planGather } from '../../src/kernels/conv-plan.ts';
import type { GatherPlan } from '../../src/kernels/conv-plan.ts';

const { adapters } = await listAdapterSummaries({ backend: 'null' });
const { adapter, summary } = adapters[0]!;
const gpu = new Gpu(
  await adapter.requestDevice({ requiredFeatures: ['subgroups'] }),
  { ...summary, subgroupSizes: [8, 8] },
  {},
);
afterAll(() => {
  gpu.close();
});

/** convTranspose2d of an OH × OW image: K channels in, C out. */
function transposed(o: {
  out: [number, number];
  window: [number, number];
  stride: [number, number];
  pad: [number, number];
  outputPad?: number;
}): ConvDims {
  const { out, window, stride, pad, outputPad = 0 } = o;
  const size = (i: 0 | 1) => (out[i] - 1) * stride[i] - 2 * pad[i] + window[i] + outputPad;
  return {
    ...{ N: 3, C: 5, H: size(0), W: size(1), K: 7, R: window[0], S: window[1] },
    ...{ OH: out[0], OW: out[1] },
    ...{ strideH: stride[0], strideW: stride[1], padH: pad[0], padW: pad[1] },
  };
}

/** Pairs of pixel and tap of one axis that meet an output or the border, never a place between outputs. */
function pairs(size: number, window: number, stride: number, pad: number): number {
  let count = 0;
  for (let h = 0; h < size; h++) {
    for (let r = 0; r < window; r++) if ((h + pad - r) % stride === 0) count += 1;
  }
  return count;
}

/** Multiply-adds of the whole data gradient. */
function trueCount(d: ConvDims): number {
  const [strideH, strideW] = phaseStrides(d);
  return d.N * d.C * d.K * pairs(d.H, d.R, strideH, d.padH) * pairs(d.W, d.S, strideW, d.padW);
}

/** Σ over the columns that are stored of the taps that their block adds up. */
function columnsTimesTaps({ TP, blocks, columns, spans }: GatherPlan): number {
  const each = gatherThreads * TP;
  let work = 0;
  for (let block = 0; block < blocks; block++) {
    for (let j = block * each; j < (block + 1) * each; j++) {
      if (columns[2 * j + 1] !== 0xffff_ffff) work += spans[2 * block + 1]! - spans[2 * block]!;
    }
  }
  return work;
}

/** What a rung's kernel launches for a data gradient: its last dispatch, and the flops of all of that kernel's. */
function launchesOf(name: string, dims: ConvDims) {
  const { dispatches } = gpu.capture(() => {
    const of = (n: number) => gpu.alloc(4 * n, 'operand');
    rungNamed(convDataGradLadder, name).run(gpu, {
      dy: of(dims.N * dims.K * dims.OH * dims.OW),
      w: of(dims.K * dims.C * dims.R * dims.S),
      out: of(dims.N * dims.C * dims.H * dims.W),
      dims,
    });
    return [];
  });
  const own = dispatches.filter(({ spec }) => spec.name === name);
  return { grid: own[0]!.grid, flops: own.reduce((sum, { flops }) => sum + flops, 0) };
}

const register = 'conv/2_gather';
const tiled = 'conv/data_grad_3_tiled';
const window = 'conv/4_window';

const halving = transposed({ out: [4, 6], window: [4, 4], stride: [2, 2], pad: [1, 1] });

test('k4 s2 p1: an output pixel sees 2 × 2 taps of each channel, not 16', () => {
  const pixels = halving.N * halving.H * halving.W;
  expect(columnsTimesTaps(planGather('dataGrad', halving))).toBe(pixels * halving.K * 2 * 2);
  const once = 2 * halving.C * pixels * halving.K * 2 * 2;
  expect(launchesOf(register, halving).flops).toBe(once);
  expect(launchesOf(tiled, halving).flops).toBe(once);
  // The convolution that it is the gradient of does the same work.
  const { N, K, OH, OW, C, R, S } = halving;
  expect(once).toBe(2 * N * K * OH * OW * C * R * S);
});

describe.each([
  { name: 'k4 s2 p1', dims: halving },
  {
    name: 'k3 s2 p1, output padding',
    dims: transposed({ out: [4, 5], window: [3, 3], stride: [2, 2], pad: [1, 1], outputPad: 1 }),
  },
  {
    name: 'k5 s3 p2',
    dims: transposed({ out: [5, 4], window: [5, 5], stride: [3, 3], pad: [2, 2] }),
  },
  {
    name: 'k2 s2 p0',
    dims: transposed({ out: [3, 7], window: [2, 2], stride: [2, 2], pad: [0, 0] }),
  },
  {
    name: 'unequal axes',
    dims: transposed({ out: [5, 6], window: [3, 4], stride: [1, 2], pad: [1, 1] }),
  },
  {
    name: 'window smaller than the stride',
    dims: transposed({ out: [4, 3], window: [2, 1], stride: [3, 2], pad: [0, 0] }),
  },
  {
    name: 'from a latent of one pixel',
    dims: transposed({ out: [1, 1], window: [4, 4], stride: [1, 1], pad: [0, 0] }),
  },
])('$name multiplies what meets, and nothing else', ({ dims }) => {
  const flops = 2 * trueCount(dims);

  test('in the plan of the register rung and in its launch', () => {
    const plan = planGather('dataGrad', dims);
    expect(2 * dims.C * columnsTimesTaps(plan)).toBe(flops);
    expect(launchesOf(register, dims).flops).toBeCloseTo(flops, 3);
  });

  test('in the phases of the window rung and in its launches', () => {
    let work = 0;
    for (const { shape, phases, phaseCount } of planWindow('dataGrad', dims).launches) {
      for (let i = 0; i < phaseCount; i++) {
        const word = (name: (typeof phaseWords)[number]) =>
          phases[i * phaseWords.length + phaseWords.indexOf(name)] ?? Number.NaN;
        // Lines of columns, values a line, steps, taps a step.
        const values = (word('columns') / word('n3')) * word('width');
        work += values * word('s1') * word('s2') * word('s3') * shape.INNER;
      }
    }
    expect(2 * dims.C * work).toBe(flops);
    expect(launchesOf(window, dims).flops).toBe(flops);
  });

  test('in the phases of the tiled rung and in its launch', () => {
    const { grid, flops: reported } = launchesOf(tiled, dims);
    const [strideH, strideW] = phaseStrides(dims);
    expect(grid[2]).toBe(strideH * strideW);
    const { N, C, H, W, K, R, S, padH, padW } = dims;
    const of = (n: number, i: number, stride: number) =>
      Array.from({ length: n }, (_, at) => at).filter((at) => at % stride === i).length;
    let work = 0;
    for (let phase = 0; phase < grid[2]; phase++) {
      const [a, b] = [Math.floor(phase / strideW), phase % strideW];
      const taps = of(R, a, strideH) * of(S, b, strideW);
      // Pixels h with h + pad ≡ a: those of a row that begins pad earlier, less the ones before 0.
      const rows = of(H + padH, a, strideH) - of(padH, a, strideH);
      const cols = of(W + padW, b, strideW) - of(padW, b, strideW);
      work += 2 * N * C * K * rows * cols * taps;
    }
    expect(work).toBe(flops);
    expect(reported).toBe(flops);
  });
});
