// The rungs of attention that round to f16, forward and backward, both layouts, against the float64 loops: rung 6 with its
// loops rolled (test/support/rolled.ts), and rung 7 with its tensor cores emulated (test/support/matrices.ts). Operands are
// such as f16 holds exactly, so that only the rounding of P and dS is allowed for.
import { describe, expect, test } from 'vitest';
import type { Gpu } from '../../src/gpu/device.ts';
import { attentionBackwardLadder } from '../../src/kernels/attention.ts';
import type { BackwardRung, ForwardRung } from '../../src/kernels/attention-common.ts';
import { attentionBackwardMatrix, attentionMatrix } from '../../src/kernels/attention-matrix.ts';
import { halvesBackward, halvesForward } from '../../src/kernels/attention-rungs.ts';
import type { Tile } from '../../src/kernels/kernel.ts';
import { layouts } from '../support/attention.ts';
import type { Sizes } from '../support/attention.ts';
import { names, setUpHalves } from '../support/attention-f16.ts';
import type { MadeHalves, Name } from '../support/attention-f16.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { packHalves, unpackHalves } from '../support/half.ts';
import { openMatrixGpu } from '../support/matrices.ts';
import { gridsOf, openNarrowGpu } from '../support/narrow.ts';
import { RolledGpu } from '../support/rolled.ts';

const gpu = new RolledGpu(await openTestGpu(), /^attention/);
const matrixGpu = await openMatrixGpu();

const shapes: readonly Sizes[] = [
  [1, 1, 1, 1, 1],
  [2, 37, 67, 3, 5],
  [3, 1, 29, 4, 8],
  [2, 70, 36, 17, 7],
  // Widths past a chunk of dims and past a slice of values.
  [1, 40, 20, 36, 68],
  [2, 66, 35, 70, 67],
];

interface Passes {
  readonly forward: ForwardRung;
  readonly backward: BackwardRung;
}

async function resultsOf(
  { forward, backward }: Passes,
  device: Gpu,
  made: MadeHalves,
  tile?: Tile,
) {
  const { dims, given, expected } = made;
  const halves = dims.stored === 'f16';
  const put = (data: Float64Array) => (halves ? packHalves(data) : data);
  const room = (n: number) => (halves ? Math.ceil(n / 2) : n);
  const raw = await execute(
    device,
    {
      ...{ q: put(given.q), k: put(given.k), v: put(given.v), dOut: put(given.dOut) },
      ...{ out: room(expected.out.length), lse: expected.lse.length },
      ...{ dq: room(given.q.length), dk: room(given.k.length), dv: room(given.v.length) },
    },
    (s) => {
      forward.run(device, { ...s, ...dims }, tile);
      backward.run(device, { ...s, ...dims }, tile);
    },
    names,
  );
  const take = (name: Name) =>
    halves && name !== 'lse' ? unpackHalves(raw[name], expected[name].length) : raw[name];
  return { ...Object.fromEntries(names.map((name) => [name, take(name)])) } as Record<
    Name,
    Float64Array | Float32Array<ArrayBuffer>
  >;
}

const rungs = [
  {
    name: halvesForward.name,
    forward: halvesForward,
    backward: halvesBackward,
    device: gpu.features.has('shader-f16') ? gpu : undefined,
    narrow: async () => new RolledGpu(await openNarrowGpu(3), /^attention/),
  },
  {
    name: attentionMatrix.name,
    forward: attentionMatrix,
    backward: attentionBackwardMatrix,
    device: matrixGpu,
    narrow: () => openMatrixGpu({ most: 3 }),
  },
];

async function check(rung: Passes, device: Gpu, made: MadeHalves, tile?: Tile) {
  const results = await resultsOf(rung, device, made, tile);
  for (const name of names) {
    const what = `${name} of ${JSON.stringify(made.dims)} ${JSON.stringify(tile)}`;
    expectClose(results[name], made.expected[name], made.allowed(name), what);
  }
}

describe.each(rungs)('$name', (rung) => {
  const { device, forward, backward } = rung;
  const testOrSkip = test.skipIf(device === undefined);

  for (const layout of layouts) {
    testOrSkip(`every shape, ${layout}`, async () => {
      for (const shape of shapes) await check(rung, device!, setUpHalves(shape, layout));
    });
  }

  testOrSkip('tensors stored as f16', async () => {
    await check(rung, device!, setUpHalves(shapes[1]!, 'channel', { stored: 'f16' }));
    await check(rung, device!, setUpHalves(shapes[4]!, 'channel', { stored: 'f16' }));
    await check(rung, device!, setUpHalves(shapes[2]!, 'sequence', { stored: 'f16' }));
  });

  testOrSkip('every tile', async () => {
    const made = setUpHalves([2, 35, 37, 20, 133], 'sequence');
    const tiles = forward.tiles(device!, made.dims);
    expect(tiles.length).toBeGreaterThanOrEqual(2);
    for (const tile of tiles) await check(rung, device!, made, tile);
  });

  testOrSkip('folded grids, and the same bits twenty times', async () => {
    const narrow = await rung.narrow();
    const made = setUpHalves([2, 66, 35, 9, 200], 'sequence');
    await check(rung, narrow!, made);
    expect(await narrow!.brokenGuards()).toEqual([]);
    await expectSameBits(async () => {
      const results = await resultsOf(rung, device!, made);
      return Object.fromEntries(names.map((name) => [name, Float32Array.from(results[name])]));
    });
  });

  testOrSkip('has a grid for 70,000 batches', () => {
    const dims = {
      ...{ B: 70_000, Nq: 1, Nk: 2, DK: 1, DV: 1, scale: 1 },
      layout: 'channel',
    } as const;
    const grids = gridsOf(device!, () => {
      const storages = attentionBackwardLadder.operands(dims);
      const of = (name: keyof typeof storages) => device!.alloc(4 * storages[name], name);
      const given = { q: of('q'), k: of('k'), v: of('v'), dOut: of('dOut') };
      const made = { out: of('out'), lse: of('lse'), dq: of('dq'), dk: of('dk'), dv: of('dv') };
      forward.run(device!, { ...dims, ...given, ...made });
      backward.run(device!, { ...dims, ...given, ...made });
    });
    expect(grids.length).toBeGreaterThanOrEqual(4);
    for (const { name, grid } of grids) {
      expect(Math.max(...grid), name).toBeLessThanOrEqual(65_535);
    }
  });

  testOrSkip('one key among many thousands keeps its weight', async () => {
    // An even row: every weight is 1/Nk, which f16 could hold to a few digits only.
    await check(rung, device!, setUpHalves([1, 3, 5000, 1, 3], 'channel'));
  });

  testOrSkip('only the gradients that are asked for', async () => {
    const { dims, given, expected, allowed } = setUpHalves(shapes[1]!, 'channel');
    const { dv } = await execute(
      device!,
      { ...given, out: expected.out, lse: expected.lse, dv: given.v.length },
      (s) => {
        backward.run(device!, { ...s, ...dims });
      },
      ['dv'],
    );
    expectClose(dv, expected.dv, allowed('dv'), 'dv alone');
  });

  testOrSkip('is not for those who asked for f32, and wrote nothing outside', async () => {
    const { precision, ...dims } = setUpHalves(shapes[1]!, 'channel').dims;
    for (const pass of [forward, backward]) {
      expect(pass.fits(device!, { ...dims, precision })).toBe(true);
      expect(pass.fits(device!, { ...dims, stored: 'f16' })).toBe(true);
      expect(pass.fits(device!, dims)).toBe(false);
    }
    expect(await device!.brokenGuards()).toEqual([]);
  });
});

const testOnMatrices = test.skipIf(matrixGpu === undefined);

testOnMatrices('a tile of tensor cores as wide as a GPU takes', async () => {
  const made = setUpHalves([2, 35, 37, 20, 133], 'sequence');
  const wide = { ...attentionMatrix.tiles(matrixGpu!, made.dims)[0]!, SG: 2, TV: 128 };
  await check(rungs[1]!, matrixGpu!, made, wide);
});

testOnMatrices.each([
  { config: 'f16→f32 16×8×16', lanes: 32 },
  { config: 'f16→f32 8×8×8', lanes: 32 },
])('$config, subgroups of $lanes', async (options) => {
  const device = await openMatrixGpu(options);
  await check(rungs[1]!, device!, setUpHalves(shapes[3]!, 'channel'));
});
