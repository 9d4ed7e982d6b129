// Attention that joins its block's residual: to the bit what the two ops give, in as many launches as the adapter's rung takes;
// every rung that can join, and gradients of gradients.
import { describe, expect, inject, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { FloatType, Tensor } from '../../src/autograd/tensor.ts';
import { attentionForwardLadder, forwardRungs } from '../../src/kernels/attention.ts';
import type { AttentionLayout } from '../../src/kernels/attention-common.ts';
import { choose } from '../../src/kernels/rung.ts';
import { attentionResidual } from '../../src/ops/attention-residual.ts';
import { attention } from '../../src/ops/attention.ts';
import { residual } from '../../src/ops/residual.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, wordsOf } from '../support/execute.ts';
import { bitsOf, eagerly, leaf, randomInput, replayed } from '../support/ops.ts';
import { randomFloats } from '../support/random.ts';
import { RolledGpu } from '../support/rolled.ts';
import { secondBudget, secondOrder } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const scale = 0.5;

/** Sizes whose positions are whole vec4s, and odd ones: B, Nq, Nk, DK, DV. */
const [even, odd] = [
  [2, 16, 16, 2, 8],
  [2, 5, 3, 2, 4],
] as const;
type Sizes = typeof even | typeof odd;
const sizesOf = ([B, Nq, Nk, DK, DV]: Sizes, layout: AttentionLayout) => ({
  ...{ B, Nq, Nk, DK, DV, scale, layout },
});

/** q, k, v, x and gamma, and the block of them by one op and by two. */
function blockOf(sizes: Sizes, layout: AttentionLayout, dtype: FloatType = 'f32') {
  const [B, Nq, Nk, DK, DV] = sizes;
  const made = (N: number, D: number, seed: number) =>
    leaf(tape, randomInput(layout === 'channel' ? [B, D, N] : [B, N, D], seed), 'in', dtype);
  const [q, k, v, x] = [made(Nq, DK, 1), made(Nk, DK, 2), made(Nk, DV, 3), made(Nq, DV, 4)];
  const gamma = leaf(tape, randomInput([1], 5));
  return {
    inputs: [q, k, v, gamma, x],
    joined: () => attentionResidual(q, k, v, { gamma, x, layout, scale }),
    apart: () => residual(attention(q, k, v, { layout, scale }), gamma, x),
  };
}

describe('attention with a residual', () => {
  const halves = gpu.features.has('shader-f16') ? (['f16'] as const) : [];
  const cases = [
    ...[even, odd].map((sizes) => ({ sizes, layout: 'channel' as const, dtype: 'f32' as const })),
    { sizes: even, layout: 'sequence' as const, dtype: 'f32' as const },
    ...halves.map((dtype) => ({ sizes: even, layout: 'channel' as const, dtype })),
  ];
  test.each(cases)(
    '$sizes, $layout-major, $dtype: the bits of the two ops',
    async ({ sizes, layout, dtype }) => {
      const { inputs, joined, apart } = blockOf(sizes, layout, dtype);
      const { shape } = inputs[4]!;
      const dy = leaf(tape, randomInput(shape, 6), 'dy', dtype);
      const [q, , v, gamma] = inputs;
      const all = (f: () => Tensor) => () => {
        const y = f();
        return [
          y,
          ...grad([y], inputs, { gradOutputs: [dy] }),
          // gamma held still, then nothing wanted of attention
          ...grad([f()], [q!, v!], { gradOutputs: [dy] }),
          ...grad([f()], [gamma!], { gradOutputs: [dy] }),
          tape.noGrad(f),
        ];
      };
      const [found, wanted] = [await eagerly(gpu, all(joined)), await eagerly(gpu, all(apart))];
      expect(found.map(({ dtype: d }) => d)).toEqual(wanted.map(({ dtype: d }) => d));
      expect(bitsOf(found)).toEqual(bitsOf(wanted));
      expect(bitsOf(await replayed(gpu, all(joined), 2))).toEqual(bitsOf(wanted));
    },
  );

  test('is one launch where the rung joins, and keeps no more than it must', () => {
    const { joined, apart } = blockOf(even, 'channel');
    const launches = (f: () => Tensor) =>
      gpu.capture(() => [f().storage]).dispatches.map((d) => d.spec.name);
    const dims = sizesOf(even, 'channel');
    const { rung } = choose(gpu, attentionForwardLadder, dims);
    const fused = forwardRungs.find(({ name }) => name === rung.name)!.joins?.(dims) === true;
    expect(inject('driver') === 'lavapipe').toBe(fused);
    expect(launches(joined).length).toBe(launches(apart).length - (fused ? 1 : 0));
    expect(launches(() => tape.noGrad(joined)).length).toBe(launches(joined).length);
  });

  test('twice differentiated it is its composition', async () => {
    const { inputs, joined, apart } = blockOf(even, 'channel');
    const dy = leaf(tape, randomInput(inputs[4]!.shape, 6));
    const all = (f: () => Tensor) => () => {
      const { y, first, second } = secondOrder(f, inputs, dy);
      return [y, ...first, ...second];
    };
    const [found, wanted] = [await replayed(gpu, all(joined)), await replayed(gpu, all(apart))];
    const limit = secondBudget(
      wanted.map(({ data }) => data),
      { terms: 16 * 8 },
    );
    found.forEach(({ data }, i) => {
      expectClose(data, wanted[i]!.data, limit, `result ${i}`);
    });
  });

  test('refuses a shortcut of another shape and a gamma that is no number', () => {
    const { inputs } = blockOf(odd, 'channel');
    const [q, k, v, gamma, x] = inputs as [Tensor, Tensor, Tensor, Tensor, Tensor];
    expect(() => attentionResidual(q, k, v, { gamma, x: q })).toThrow(
      'attentionResidual: the shortcut is [2, 2, 5], what attention gives [2, 4, 5]; the shapes must agree',
    );
    const two = tensor(tape, [1, 2], [2]);
    expect(() => attentionResidual(q, k, v, { gamma: two, x })).toThrow(
      'attentionResidual: gamma is [2]; it must be one number',
    );
  });
});

// On lavapipe two rungs are there to join in f32, the GPU's with its loops rolled, or compiling it takes half a minute.
const rolled = new RolledGpu(gpu, /^attention\/5_/);
const dims = sizesOf(even, 'channel');
const joining = forwardRungs.filter((rung) => rung.joins?.(dims) === true);
describe.each(joining)('$name', (rung) => {
  const runs = rung.fits(gpu, dims) && inject('driver') === 'lavapipe';
  test.skipIf(!runs)('stores out, the sum, or both, with the same bits', async () => {
    const [B, Nq, Nk, DK, DV] = even;
    const n = B * Nq * DV;
    const [shortcut, gamma] = [randomFloats(n, 4), randomFloats(1, 5)];
    const contents = {
      ...{
        q: randomFloats(B * Nq * DK, 1),
        k: randomFloats(B * Nk * DK, 2),
        v: randomFloats(B * Nk * DV, 3),
      },
      ...{ shortcut, gamma, out: n, joined: n, lse: B * Nq },
    };
    const run = (keepOut?: boolean) =>
      execute(
        rolled,
        contents,
        ({ gamma: g, shortcut: x, joined, ...s }) => {
          const with_ = { gamma: g, shortcut: x, joined };
          const residualOf = keepOut === undefined ? undefined : { ...with_, keepOut };
          rung.run(rolled, { ...s, ...dims, residual: residualOf });
        },
        ['out', 'joined', 'lse'],
      );
    const [plain, both, alone] = [await run(), await run(true), await run(false)];
    expect(wordsOf(both.out)).toEqual(wordsOf(plain.out));
    expect(wordsOf(alone.joined)).toEqual(wordsOf(both.joined));
    expect(wordsOf(alone.lse)).toEqual(wordsOf(plain.lse));
    const sum = Float64Array.from(plain.out, (o, i) => gamma[0]! * o + shortcut[i]!);
    // two roundings of at most |gamma·o| + |x|
    expectClose(both.joined, sum, { abs: 2 * 2 ** -24 * 3 }, 'joined');
  });
});

test('attention with a residual: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
