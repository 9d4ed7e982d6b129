// The convolutions on tensor cores against the float64 loops. The matrices are emulated (test/support/matrices.ts); operands
// are such as f16 holds exactly, so that what remains is the order of an f32 sum.
import { expect, test } from 'vitest';
import {
  convDataGradMatrix,
  convForwardMatrix,
  convWeightGradMatrix,
} from '../../src/kernels/conv-matrix.ts';
import type { ConvSizes } from '../../src/kernels/conv.ts';
import type { Tile } from '../../src/kernels/kernel.ts';
import { conv2d, conv2dBackward } from '../reference/conv.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import type { Budget, Round } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { packHalves, randomHalves, storedAsHalf, unpackHalves } from '../support/half.ts';
import { openMatrixGpu } from '../support/matrices.ts';

const gpu = await openMatrixGpu();
const narrow = await openMatrixGpu({ most: 2 });
const testOrSkip = test.skipIf(gpu === undefined);

type Pair = readonly [number, number];

interface Case {
  readonly N: number;
  readonly C: number;
  readonly K: number;
  readonly size: Pair;
  readonly window: Pair;
  readonly stride?: Pair;
  readonly pad?: Pair;
}

function dimsOf(c: Case): ConvSizes {
  const { N, C, K, size, window, stride = [1, 1], pad = [0, 0] } = c;
  const out = (i: 0 | 1) => Math.floor((size[i] + 2 * pad[i] - window[i]) / stride[i]) + 1;
  return {
    ...{ N, C, H: size[0], W: size[1], K, R: window[0], S: window[1], OH: out(0), OW: out(1) },
    ...{ strideH: stride[0], strideW: stride[1], padH: pad[0], padW: pad[1], precision: 'f16' },
  };
}

const cases: readonly ConvSizes[] = [
  // SAGAN's own: halving, from a latent, 3×3, 1×1.
  dimsOf({ N: 2, C: 3, K: 16, size: [8, 8], window: [4, 4], stride: [2, 2], pad: [1, 1] }),
  dimsOf({ N: 5, C: 24, K: 9, size: [4, 4], window: [4, 4] }),
  dimsOf({ N: 2, C: 12, K: 20, size: [8, 8], window: [3, 3], pad: [1, 1] }),
  dimsOf({ N: 3, C: 70, K: 66, size: [4, 4], window: [1, 1] }),
  // Size 1 everywhere, odd and prime sizes, unequal sides.
  dimsOf({ N: 1, C: 1, K: 1, size: [1, 1], window: [1, 1] }),
  dimsOf({ N: 2, C: 5, K: 7, size: [1, 1], window: [3, 3], pad: [1, 1] }),
  dimsOf({ N: 1, C: 7, K: 5, size: [13, 11], window: [3, 5], pad: [1, 2] }),
  dimsOf({ N: 3, C: 2, K: 3, size: [10, 13], window: [5, 2], stride: [3, 2], pad: [2, 0] }),
  // The window is smaller than the stride: some phases meet no tap. Pixels that no window covers.
  dimsOf({ N: 2, C: 3, K: 4, size: [9, 8], window: [2, 1], stride: [3, 3], pad: [0, 1] }),
  // One output along an axis while the image is longer than the window.
  dimsOf({ N: 2, C: 3, K: 4, size: [7, 6], window: [3, 2], stride: [9, 1] }),
  // Positions of a weight gradient in parts of unequal length.
  dimsOf({ N: 9, C: 2, K: 3, size: [9, 9], window: [3, 3], pad: [1, 1] }),
  // More than one tile and step in every direction.
  dimsOf({ N: 2, C: 36, K: 71, size: [7, 9], window: [3, 3], pad: [1, 1] }),
];

const title = (d: ConvSizes) =>
  `N${d.N} ${d.C}→${d.K} ${d.H}×${d.W}→${d.OH}×${d.OW} window ${d.R}×${d.S}` +
  ` stride ${d.strideH},${d.strideW} pad ${d.padH},${d.padW} ${d.stored ?? 'f32'}`;

/** The three results of a convolution: what they should be, and by how much they may differ. */
function expectations(d: ConvSizes) {
  const x = randomHalves(d.N * d.C * d.H * d.W, 1);
  const w = randomHalves(d.K * d.C * d.R * d.S, 2);
  const dy = randomHalves(d.N * d.K * d.OH * d.OW, 3);
  const [biasK, biasC] = [randomHalves(d.K, 4), randomHalves(d.C, 5)];
  const reference = {
    ...{ x, w, N: d.N, C: d.C, H: d.H, W: d.W, K: d.K, R: d.R, S: d.S, bias: biasK },
    ...{ stride: [d.strideH, d.strideW] as const, pad: [d.padH, d.padW] as const },
  };
  const run = (r: Round) => {
    const { dx, dw } = conv2dBackward(reference, dy, r);
    const area = d.H * d.W;
    const biased = dx.map((v, i) => r(v + biasC[Math.floor(i / area) % d.C]!));
    return { y: conv2d(reference, r), dx: biased, dw };
  };
  const [expected, naive] = [run(f64), run(f32)];
  const allowed = (name: 'y' | 'dx' | 'dw'): Budget => {
    const float = budget(expected[name], naive[name]);
    return d.stored === 'f16' && name !== 'dw' ? storedAsHalf(float) : float;
  };
  return { given: { x, w, dy, biasK, biasC }, expected, allowed };
}

async function resultsOf(
  device: NonNullable<typeof gpu>,
  d: ConvSizes,
  { given, tile }: { given: ReturnType<typeof expectations>['given']; tile?: Tile | undefined },
) {
  const halves = d.stored === 'f16';
  const put = (data: Float64Array) => (halves ? packHalves(data) : data);
  const { x, w, dy, biasK, biasC } = given;
  const room = (n: number) => (halves ? Math.ceil(n / 2) : n);
  const raw = await execute(
    device,
    {
      ...{ x: put(x), w: put(w), dy: put(dy), biasK, biasC },
      ...{ y: room(dy.length), dx: room(x.length), dw: w.length },
    },
    (s) => {
      convForwardMatrix.run(device, { ...s, bias: s.biasK, out: s.y, dims: d }, tile);
      convDataGradMatrix.run(device, { ...s, bias: s.biasC, out: s.dx, dims: d }, tile);
      convWeightGradMatrix.run(device, { ...s, out: s.dw, dims: d }, tile);
    },
    ['y', 'dx', 'dw'],
  );
  const take = (words: Float32Array<ArrayBuffer>, n: number) =>
    halves ? unpackHalves(words, n) : words;
  return { y: take(raw.y, dy.length), dx: take(raw.dx, x.length), dw: raw.dw };
}

async function check(device: NonNullable<typeof gpu>, d: ConvSizes, tile?: Tile) {
  const { given, expected, allowed } = expectations(d);
  const results = await resultsOf(device, d, { given, tile });
  for (const name of ['y', 'dx', 'dw'] as const) {
    const what = `${name} of ${title(d)} ${JSON.stringify(tile)}`;
    expectClose(results[name], expected[name], allowed(name), what);
  }
}

testOrSkip.each(cases.map((dims) => ({ name: title(dims), dims })))('$name', async ({ dims }) => {
  await check(gpu!, dims);
});

testOrSkip.each([cases[2]!, cases[3]!, cases[7]!].map((dims) => ({ dims })))(
  'operands and results stored as f16: $dims.C → $dims.K',
  async ({ dims }) => {
    await check(gpu!, { ...dims, stored: 'f16' });
  },
);

testOrSkip('every tile, folded grids too', async () => {
  const dims = cases.at(-1)!;
  const tiles = convForwardMatrix.tiles(gpu!, dims);
  expect(tiles).toHaveLength(3);
  for (const tile of tiles) await check(narrow!, dims, tile);
});

testOrSkip('without a bias, and the same bits twenty times', async () => {
  const dims = cases.at(-1)!;
  const { given, expected, allowed } = expectations(dims);
  await expectSameBits(async () => {
    const { y, dx, dw } = await resultsOf(gpu!, dims, { given });
    return { y: Float32Array.from(y), dx: Float32Array.from(dx), dw };
  });
  const { x, w } = given;
  const { y } = await execute(
    gpu!,
    { x, w, y: expected.y.length },
    (s) => {
      convForwardMatrix.run(gpu!, { ...s, out: s.y, dims });
    },
    ['y'],
  );
  const area = dims.OH * dims.OW;
  const biased = y.map((v, i) => v + given.biasK[Math.floor(i / area) % dims.K]!);
  expectClose(biased, expected.y, allowed('y'), 'y without its bias');
});

testOrSkip.each(['f32', 'f16'] as const)('with an activation, results in %s', async (stored) => {
  const dims = { ...cases[2]!, stored };
  const { given, expected, allowed } = expectations(dims);
  const { x, w, biasK } = given;
  const halves = stored === 'f16';
  const n = expected.y.length;
  for (const slope of [0, 0.2]) {
    const { y } = await execute(
      gpu!,
      {
        ...(halves ? { x: packHalves(x), w: packHalves(w) } : { x, w }),
        ...{ biasK, y: halves ? Math.ceil(n / 2) : n },
      },
      (s) => {
        const args = { ...s, bias: s.biasK, out: s.y, activation: { slope }, dims };
        convForwardMatrix.run(gpu!, args);
      },
      ['y'],
    );
    const activated = expected.y.map((v) => (v > 0 ? v : slope * v));
    expectClose(halves ? unpackHalves(y, n) : y, activated, allowed('y'), `slope ${slope}`);
  }
});

testOrSkip('are not for those who asked for f32', () => {
  const { precision, ...dims } = cases[0]!;
  expect(precision).toBe('f16');
  for (const rung of [convForwardMatrix, convDataGradMatrix, convWeightGradMatrix]) {
    expect(rung.fits(gpu!, cases[0]!)).toBe(true);
    expect(rung.fits(gpu!, dims)).toBe(false);
  }
});

testOrSkip('nothing was written outside its output', async () => {
  expect(await gpu!.brokenGuards()).toEqual([]);
  expect(await narrow!.brokenGuards()).toEqual([]);
});
