// Every rung of attention in f32, forward and backward, both layouts, against the float64 loops; those that round to f16 are
// in attention-f16.test.ts. Compiling is what takes time: each rung, tile and flag is a program of its own, and a CPU driver
// unrolls what is written for a GPU into seconds of work. Hence:
// - On lavapipe every rung runs; on SwiftShader its own (1, 8), one with barriers (2), and one forward with subgroups, which
//   are of four there (5).
// - Rungs 2 to 8 run with their loops rolled (test/support/rolled.ts), but for the one that the adapter gets, which runs as it
//   stands once more below; nonfinite.test.ts runs all as they stand. Rung 9 runs as it stands: rolled, it is slower to compile.
// - Rungs 8 and 9, which keep whole rows in registers, show that they take widths past one pass in a narrow tile.
import { describe, expect, inject, test } from 'vitest';
import { once } from '../../src/autograd/op.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import {
  attention,
  attentionBackward,
  attentionBackwardLadder,
  attentionForwardLadder,
  attentionMap,
} from '../../src/kernels/attention.ts';
import type { BackwardRung, ForwardRung } from '../../src/kernels/attention-common.ts';
import type { Tile } from '../../src/kernels/kernel.ts';
import { budget, f32, f64, maxAbs, softmaxAllowance } from '../reference/naive.ts';
import { softmax as referenceSoftmax } from '../reference/softmax.ts';
import { backwardBudgets, layouts, setUp } from '../support/attention.ts';
import type { Gradient, Made, Sizes } from '../support/attention.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { gridsOf, openNarrowGpu } from '../support/narrow.ts';
import { RolledGpu } from '../support/rolled.ts';

const plain = await openTestGpu();
const rolled = /^attention\/[2-8]_/;
const gpu = new RolledGpu(plain, rolled);
const narrow = new RolledGpu(await openNarrowGpu(2), rolled);
const gradients = ['dq', 'dk', 'dv'] as const;

const shapes: readonly Sizes[] = [
  [2, 37, 67, 3, 5],
  [3, 1, 29, 3, 7],
];
const ones: Sizes = [1, 1, 1, 1, 1];
/** A vec4 of positions and of dims, in more than one round of registers each. */
const tileShape: Sizes = [1, 20, 132, 12, 32];
/** Widths past one pass of registers or tiles, which takes a second one, and reads again what did not fit. */
interface Wide {
  readonly shape: Sizes;
  /** More workgroups than a folded row's two places hold, in each direction. */
  readonly folded: Sizes;
  readonly tile?: (made: Made) => Tile;
}
const wideOf = (tiles: (made: Made) => readonly Tile[], name: string): Wide =>
  /threads|lanes/.test(name)
    ? {
        shape: [1, 40, 20, 20, 20],
        folded: [5, 40, 36, 20, 20],
        tile: (made) => {
          const [first] = tiles(made);
          const least = first!['LANES'] ?? 4;
          return { ...first, TD: least, TV: least };
        },
      }
    : { shape: [1, 40, 20, 68, 68], folded: [5, 40, 36, 8, 68] };

interface Run {
  readonly device?: Gpu;
  readonly tile?: Tile;
  /** Gradients asked for; all if left out. */
  readonly wanted?: readonly Gradient[];
}

/** One of the two ladders' rungs, checked in the same ways. */
interface Pass {
  readonly name: string;
  readonly tiles: (made: Made) => readonly Tile[];
  readonly wide: Wide;
  readonly fits: boolean;
  readonly run: (made: Made, run?: Run) => Promise<Record<string, Float32Array<ArrayBuffer>>>;
  readonly check: (made: Made, what: string, run?: Run) => Promise<void>;
}

const sample = setUp([1, 4, 4, 4, 4], 'channel').dims;
const runsHere = (rung: ForwardRung | BackwardRung) =>
  rung.fits(gpu, sample) &&
  (inject('driver') !== 'swiftshader' || /materialised|rows|subgroups$|threads/.test(rung.name));

function forwardPass(rung: ForwardRung): Pass {
  const run: Pass['run'] = ({ dims, q, k, v }, { device = gpu, tile } = {}) =>
    execute(
      device,
      { q, k, v, out: dims.B * dims.Nq * dims.DV, lse: dims.B * dims.Nq },
      (s) => {
        rung.run(device, { ...s, ...dims }, tile);
      },
      ['out', 'lse'],
    );
  const tiles: Pass['tiles'] = ({ dims }) => rung.tiles(gpu, dims);
  return {
    name: `${rung.name} forward`,
    fits: runsHere(rung),
    tiles,
    wide: wideOf(tiles, rung.name),
    run,
    check: async (made, what, options) => {
      const { out, lse } = await run(made, options);
      expectClose(out!, made.forward.o, made.outBudget, `${what} out`);
      expectClose(lse!, made.forward.lse, made.lseBudget, `${what} lse`);
    },
  };
}

function backwardPass(rung: BackwardRung): Pass {
  const run: Pass['run'] = (made, { device = gpu, tile, wanted = gradients } = {}) => {
    const { dims, q, k, v, dOut, forward } = made;
    const lengths = { dq: q.length, dk: k.length, dv: v.length };
    return execute(
      device,
      { q, k, v, out: forward.o, lse: forward.lse, dOut, ...lengths },
      ({ dq, dk, dv, ...s }) => {
        const all = { dq, dk, dv };
        const asked = Object.fromEntries(wanted.map((name) => [name, all[name]]));
        rung.run(device, { ...s, ...dims, ...asked }, tile);
      },
      wanted,
    );
  };
  const tiles: Pass['tiles'] = ({ dims }) => rung.tiles(gpu, dims);
  return {
    name: `${rung.name} backward`,
    fits: runsHere(rung),
    tiles,
    wide: wideOf(tiles, rung.name),
    run,
    check: async (made, what, options) => {
      const got = await run(made, options);
      const { ref, of } = backwardBudgets(made);
      for (const name of options?.wanted ?? gradients) {
        expectClose(got[name]!, ref[name], of(name), `${what} ${name}`);
      }
    },
  };
}

const inFloats = ({ name }: ForwardRung | BackwardRung) => !/f16|tensor_cores/.test(name);
const forwards = attentionForwardLadder.rungs.filter(inFloats);
const backwards = attentionBackwardLadder.rungs.filter(inFloats);
const passes = [...forwards.map(forwardPass), ...backwards.map(backwardPass)];

describe.each(passes)('$name', (pass) => {
  const testOrSkip = test.skipIf(!pass.fits);

  describe.each(layouts)('%s', (layout) => {
    testOrSkip('matches the float64 loops', async () => {
      // A width of 1 is a program of its own for some rungs.
      for (const shape of layout === 'channel' ? [ones, ...shapes] : shapes) {
        await pass.check(setUp(shape, layout), shape.join('×'));
      }
    });

    testOrSkip('takes widths past one pass', async () => {
      const { shape, tile } = pass.wide;
      const made = setUp(shape, layout);
      await pass.check(made, shape.join('×'), tile && { tile: tile(made) });
    });
  });

  testOrSkip('is right in every tile', async () => {
    const made = setUp(tileShape, 'channel');
    for (const tile of pass.tiles(made)) {
      await pass.check(made, JSON.stringify(tile), { tile });
    }
  });

  testOrSkip('gives the same bits twenty times', async () => {
    const made = setUp([2, 37, 67, 3, 5], 'channel');
    await expectSameBits(() => pass.run(made));
  });

  // The first rung's products are matmul's, and its rows are never folded.
  test.skipIf(!pass.fits || pass.name.includes('materialised'))(
    'finds its tiles in workgroups folded into a row',
    async () => {
      const { folded, tile } = pass.wide;
      const made = setUp(folded, 'channel');
      await pass.check(made, 'folded', { device: narrow, ...(tile && { tile: tile(made) }) });
    },
  );

  testOrSkip('takes scores in the thousands', async () => {
    const made = setUp([1, 12, 40, 12, 32], 'channel', 60);
    expect(maxAbs(made.forward.lse)).toBeGreaterThan(1000);
    await pass.check(made, 'scores in the thousands');
  });
});

describe.each(backwards.map(backwardPass))('$name', (pass) => {
  test.skipIf(!pass.fits)('leaves out the gradients that nobody needs', async () => {
    const { shape, tile } = pass.wide;
    for (const sizes of tile ? [shape] : [shape, tileShape]) {
      const made = setUp(sizes, 'channel');
      for (const name of gradients) {
        const options = { wanted: [name], ...(tile && { tile: tile(made) }) };
        await pass.check(made, `${name} alone`, options);
      }
    }
  });
});

describe('70,000 batches', () => {
  const [B, Nq, Nk, DK, DV] = [70_000, 1, 2, 1, 1];
  const dims = { B, Nq, Nk, DK, DV, scale: 1, layout: 'channel' } as const;
  const rungs = [attentionForwardLadder, attentionBackwardLadder].flatMap((ladder) =>
    ladder.rungs
      .filter(inFloats)
      .map((rung) => ({ name: `${ladder.name} ${rung.name}`, ladder, rung })),
  );
  test.each(rungs)('$name has a grid for them', ({ ladder, rung }) => {
    const grids = gridsOf(gpu, () => {
      const storages = Object.fromEntries(
        Object.entries(ladder.operands(dims)).map(([name, n]) => [name, gpu.alloc(4 * n, name)]),
      );
      (rung.run as (g: Gpu, args: unknown) => void)(gpu, { ...dims, ...storages });
    });
    expect(grids.length).toBeGreaterThanOrEqual(1);
    for (const { name, grid } of grids) {
      expect(Math.max(...grid), name).toBeLessThanOrEqual(65_535);
    }
  });

  /** On the rungs without barriers, which take no minutes for them on a software driver. */
  const made = once(() => setUp([B, Nq, Nk, DK, DV], 'channel'));
  const quick = passes.filter(({ name }) => /materialised|threads|lanes/.test(name));
  test.each(quick)('$name takes them', async (pass) => {
    if (pass.fits) await pass.check(made(), '70,000 batches');
  });
});

test('the attention that the adapter gets is right forward and backward', async () => {
  const made = setUp(tileShape, 'channel');
  const { dims, q, k, v, dOut } = made;
  const got = await execute(
    plain,
    { q, k, v, dOut, out: dOut.length, lse: 20, dq: q.length, dk: k.length, dv: v.length },
    (s) => {
      attention(plain, { ...s, ...dims });
      attentionBackward(plain, { ...s, ...dims });
    },
    ['out', 'dq', 'dk', 'dv'],
  );
  expectClose(got.out, made.forward.o, made.outBudget, 'out');
  const { ref, of } = backwardBudgets(made);
  for (const name of gradients) expectClose(got[name], ref[name], of(name), name);
});

test('a ladder counts its work and its operands', () => {
  const dims = { B: 2, Nq: 3, Nk: 5, DK: 4, DV: 7, scale: 1, layout: 'sequence' } as const;
  expect(attentionForwardLadder.flops(dims)).toBe(2 * 2 * 15 * 11);
  expect(attentionBackwardLadder.flops(dims)).toBe(2 * 2 * 15 * (3 * 4 + 2 * 7));
  const forward = 2 * (3 * 4 + 5 * 4 + 5 * 7 + 3 * 7 + 3);
  expect(attentionForwardLadder.bytes(dims)).toBe(4 * forward);
  expect(attentionBackwardLadder.bytes(dims)).toBe(4 * (forward + 2 * (21 + 12 + 20 + 35)));
  const halves = { ...dims, stored: 'f16' } as const;
  expect(attentionForwardLadder.bytes(halves)).toBe(2 * forward + 2 * 6);
});

test('attentionMap holds the softmax of the scores', async () => {
  for (const layout of layouts) {
    const { dims, q, k } = setUp([2, 9, 14, 5, 3], layout);
    const { B, Nq, Nk, DK, scale } = dims;
    const { out } = await execute(
      gpu,
      { q, k, out: B * Nq * Nk },
      (s) => {
        attentionMap(gpu, { ...s, B, Nq, Nk, DK, scale, layout });
      },
      ['out'],
    );
    const mapOf = (round: typeof f64) => {
      const x = new Float64Array(B * Nq * Nk);
      const at = (b: number, n: number, d: number, N: number) =>
        layout === 'channel' ? (b * DK + d) * N + n : (b * N + n) * DK + d;
      for (let i = 0; i < x.length; i++) {
        const b = Math.floor(i / (Nq * Nk));
        const n = Math.floor(i / Nk) % Nq;
        let dot = 0;
        for (let d = 0; d < DK; d++) {
          dot = round(dot + round(q[at(b, n, d, Nq)]! * k[at(b, i % Nk, d, Nk)]!));
        }
        x[i] = round(round(scale) * dot);
      }
      return referenceSoftmax({ x, rows: B * Nq, cols: Nk }, round);
    };
    const ref = mapOf(f64);
    const allowance = softmaxAllowance(Nk);
    expectClose(out, ref, budget(ref, mapOf(f32), { allowance }), `attentionMap ${layout}`);
  }
});

test('no attention wrote outside its outputs, and scratch went back to the pool', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
  expect(await narrow.brokenGuards()).toEqual([]);
  expect(await plain.brokenGuards()).toEqual([]);
  expect(gpu.pool.stats().liveBlocks).toBe(0);
});
