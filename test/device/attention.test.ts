// Every rung of attention, forward and backward, both layouts, against the float64 loops.
import { expect, test } from 'vitest';
import type { Gpu } from '../../src/gpu/device.ts';
import {
  attention,
  attentionBackward,
  attentionLadder,
  attentionMap,
} from '../../src/kernels/attention.ts';
import type {
  AttentionDims,
  AttentionLayout,
  AttentionRung,
} from '../../src/kernels/attention-rungs.ts';
import { canRun } from '../../src/kernels/kernel.ts';
import {
  attention as reference,
  attentionBackward as referenceBackward,
} from '../reference/attention.ts';
import {
  budget,
  expAllowance,
  f32,
  f64,
  logAllowance,
  maxAbs,
  softmaxAllowance,
} from '../reference/naive.ts';
import type { Budget, Data } from '../reference/naive.ts';
import { softmax as referenceSoftmax } from '../reference/softmax.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { gridsOf, openNarrowGpu } from '../support/narrow.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const narrow = await openNarrowGpu(2);

type Sizes = readonly [B: number, Nq: number, Nk: number, DK: number, DV: number];

const shapes: readonly Sizes[] = [
  [1, 1, 1, 1, 1],
  [2, 37, 67, 3, 5],
  [3, 1, 29, 4, 8],
  [2, 64, 36, 3, 7],
  [1, 20, 132, 8, 32],
];
/** Widths past one pass of registers or tiles: each takes a second one, and reads what did not fit again. */
const wideShapes: readonly Sizes[] = [
  [1, 40, 20, 36, 68],
  [2, 13, 35, 38, 67],
];

const layouts: readonly AttentionLayout[] = ['channel', 'sequence'];

function setUp([B, Nq, Nk, DK, DV]: Sizes, layout: AttentionLayout, size = 1) {
  const dims: AttentionDims = { B, Nq, Nk, DK, DV, layout, scale: 1 / Math.sqrt(DK) };
  const q = randomFloats(B * Nq * DK, 1, -size, size);
  const k = randomFloats(B * Nk * DK, 2, -size, size);
  const v = randomFloats(B * Nk * DV, 3);
  const dOut = randomFloats(B * Nq * DV, 4);
  const input = { q, k, v, ...dims, channelMajor: layout === 'channel' };
  const forward = reference(input, f64);
  const naive = reference(input, f32);
  const allowance = softmaxAllowance(Nk);
  return {
    dims,
    q,
    k,
    v,
    dOut,
    input,
    forward,
    /** Weights that sum to 1 average values of at most max|v|: an error of the weights arrives no larger. */
    outBudget: budget(forward.o, naive.o, { allowance: allowance * maxAbs(v) }),
    lseBudget: budget(forward.lse, naive.lse, {
      allowance: allowance + logAllowance(Math.log(Nk)),
    }),
  };
}

type Made = ReturnType<typeof setUp>;

/**
 * Budgets of dq, dk and dv. P = exp(s - lse) has the relative error that WGSL grants exp at the largest exponent, besides
 * lse's own; it multiplies every term of the sums, so the allowance is that error times the largest sum of the terms' sizes.
 */
function backwardBudgets(made: Made): {
  ref: Record<'dq' | 'dk' | 'dv', Data>;
  of: (name: 'dq' | 'dk' | 'dv') => Budget;
} {
  const { input, dOut, dims, lseBudget } = made;
  const ref = referenceBackward(input, dOut, f64);
  const naive = referenceBackward(input, dOut, f32);
  const { Nq, Nk, DK, DV, scale } = dims;
  const spread = 2 * scale * DK * maxAbs(made.q) * maxAbs(made.k) + Math.log(Nk);
  const relative = expAllowance(spread) + 2 * lseBudget.abs;
  const dP = 2 * DV * maxAbs(dOut) * maxAbs(made.v);
  // A row of P sums to 1; a column to at most Nq.
  const terms = {
    dq: scale * dP * maxAbs(made.k),
    dk: scale * dP * maxAbs(made.q) * Nq,
    dv: maxAbs(dOut) * Nq,
  };
  return {
    ref,
    of: (name) => budget(ref[name], naive[name], { allowance: relative * terms[name] }),
  };
}

async function forwardOf(device: Gpu, rung: AttentionRung, made: Made) {
  const { dims, q, k, v } = made;
  const { B, Nq, DV } = dims;
  return execute(
    device,
    { q, k, v, out: B * Nq * DV, lse: B * Nq },
    (s) => {
      rung.forward(device, { ...s, ...dims });
    },
    ['out', 'lse'],
  );
}

async function backwardOf(device: Gpu, rung: AttentionRung, made: Made) {
  const { dims, q, k, v, dOut, forward } = made;
  const { o: out, lse } = forward;
  return execute(
    device,
    { q, k, v, out, lse, dOut, dq: q.length, dk: k.length, dv: v.length },
    (s) => {
      rung.backward(device, { ...s, ...dims });
    },
    ['dq', 'dk', 'dv'],
  );
}

interface Check {
  readonly device?: Gpu;
  readonly rung: AttentionRung;
  readonly made: Made;
  readonly what: string;
}

async function checkForward({ device = gpu, rung, made, what }: Check) {
  const { out, lse } = await forwardOf(device, rung, made);
  expectClose(out, made.forward.o, made.outBudget, `${what} out`);
  expectClose(lse, made.forward.lse, made.lseBudget, `${what} lse`);
}

async function checkBackward({ device = gpu, rung, made, what }: Check) {
  const got = await backwardOf(device, rung, made);
  const { ref, of } = backwardBudgets(made);
  for (const name of ['dq', 'dk', 'dv'] as const) {
    expectClose(got[name], ref[name], of(name), `${what} ${name}`);
  }
}

for (const rung of attentionLadder) {
  const testOrSkip = test.skipIf(!rung.kernels.every((kernel) => canRun(gpu, kernel)));

  for (const layout of layouts) {
    const name = `${rung.name} ${layout}`;
    testOrSkip(`${name} matches the float64 loops forward`, async () => {
      for (const shape of shapes) {
        await checkForward({ rung, made: setUp(shape, layout), what: shape.join('×') });
      }
    });

    testOrSkip(`${name} matches the float64 loops backward`, async () => {
      for (const shape of shapes) {
        await checkBackward({ rung, made: setUp(shape, layout), what: shape.join('×') });
      }
    });

    testOrSkip(`${name} takes widths past one pass`, async () => {
      for (const shape of wideShapes) {
        const check = { rung, made: setUp(shape, layout), what: shape.join('×') };
        await checkForward(check);
        await checkBackward(check);
      }
    });

    testOrSkip(`${name} gives the same bits twenty times`, async () => {
      const made = setUp([2, 37, 67, 8, 9], layout);
      await expectSameBits(async () => ({
        ...(await forwardOf(gpu, rung, made)),
        ...(await backwardOf(gpu, rung, made)),
      }));
    });

    // The first rung's products are matmul's, and its rows are never folded.
    if (rung === attentionLadder[0]) continue;
    testOrSkip(`${name}: workgroups folded into a row find their tiles`, async () => {
      for (const shape of [
        [3, 37, 20, 36, 68],
        [5, 20, 35, 38, 67],
        [3, 36, 68, 8, 12],
      ] satisfies Sizes[]) {
        const check = { device: narrow, rung, made: setUp(shape, layout), what: shape.join('×') };
        await checkForward(check);
        await checkBackward(check);
      }
    });
  }

  testOrSkip(`${rung.name} takes scores in the thousands`, async () => {
    const made = setUp([1, 12, 40, 8, 4], 'channel', 60);
    const { dims, q, k, v } = made;
    const { out, lse } = await execute(
      gpu,
      { q, k, v, out: 48, lse: 12 },
      (s) => {
        rung.forward(gpu, { ...s, ...dims });
      },
      ['out', 'lse'],
    );
    expect(maxAbs(made.forward.lse)).toBeGreaterThan(1000);
    expectClose(out, made.forward.o, made.outBudget, 'out');
    expectClose(lse, made.forward.lse, made.lseBudget, 'lse');
  });

  testOrSkip(`${rung.name} leaves out the gradients that nobody needs`, async () => {
    const made = setUp([2, 20, 12, 8, 16], 'channel');
    const { ref, of } = backwardBudgets(made);
    const { dims, q, k, v, dOut, forward } = made;
    const contents = { q, k, v, out: forward.o, lse: forward.lse, dOut };
    for (const wanted of ['dq', 'dk', 'dv'] as const) {
      const got = await execute(
        gpu,
        { ...contents, gradient: made[wanted === 'dq' ? 'q' : wanted === 'dk' ? 'k' : 'v'].length },
        ({ gradient, ...s }) => {
          rung.backward(gpu, { ...s, ...dims, [wanted]: gradient });
        },
        ['gradient'],
      );
      expectClose(got.gradient, ref[wanted], of(wanted), `${rung.name} ${wanted} alone`);
    }
  });
}

for (const rung of attentionLadder) {
  test(`${rung.name} has a grid for 70,000 batches`, () => {
    const [B, Nq, Nk, DK, DV] = [70_000, 2, 2, 2, 2];
    const grids = gridsOf(gpu, () => {
      const of = (n: number) => gpu.alloc(4 * B * n, 'attention');
      const io = { q: of(4), k: of(4), v: of(4), out: of(4), lse: of(2), dOut: of(4) };
      const sizes = { B, Nq, Nk, DK, DV, scale: 1, layout: 'channel' } as const;
      rung.forward(gpu, { ...io, ...sizes });
      rung.backward(gpu, { ...io, ...sizes, dq: of(4), dk: of(4), dv: of(4) });
    });
    expect(grids.length).toBeGreaterThanOrEqual(4);
    for (const { name, grid } of grids) {
      expect(Math.max(...grid), name).toBeLessThanOrEqual(65_535);
    }
  });
}

/** 70,000 batches of 2 × 2, on the rungs that take no minutes for them on a software driver. */
for (const rung of attentionLadder.slice(0, 2)) {
  test(`${rung.name} takes 70,000 batches of 2 × 2`, async () => {
    const check = { rung, made: setUp([70_000, 2, 2, 2, 2], 'channel'), what: '70,000 batches' };
    await checkForward(check);
    await checkBackward(check);
  });
}

test('the attention that the adapter gets is right forward and backward', async () => {
  const made = setUp([2, 32, 24, 4, 12], 'channel');
  const { dims, q, k, v, dOut } = made;
  const got = await execute(
    gpu,
    { q, k, v, dOut, out: dOut.length, lse: 64, dq: q.length, dk: k.length, dv: v.length },
    (s) => {
      attention(gpu, { ...s, ...dims });
      attentionBackward(gpu, { ...s, ...dims });
    },
    ['out', 'dq', 'dk', 'dv'],
  );
  expectClose(got.out, made.forward.o, made.outBudget, 'out');
  const { ref, of } = backwardBudgets(made);
  for (const name of ['dq', 'dk', 'dv'] as const) expectClose(got[name], ref[name], of(name), name);
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
  expect(gpu.pool.stats().liveBlocks).toBe(0);
});
