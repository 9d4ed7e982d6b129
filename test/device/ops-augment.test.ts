// DiffAugment against its float64 reference: values, gradients, second derivatives, replay against eager, f16, clips.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { augmentations, diffAugment } from '../../src/ops/augment.ts';
import type { Augmentation } from '../../src/ops/augment.ts';
import { square } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { augment, augmentBackward } from '../reference/augment.ts';
import { f64 } from '../reference/naive.ts';
import { eachCase } from '../support/cases.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import type { OpCase } from '../support/ops.ts';
import { randomInput } from '../support/ops.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const each = eachCase(tape);

const images = [
  { N: 1, C: 1, T: 1, H: 1, W: 1 },
  { N: 3, C: 3, T: 1, H: 8, W: 8 },
  { N: 5, C: 1, T: 1, H: 7, W: 13 },
  { N: 2, C: 3, T: 3, H: 5, W: 4 },
] as const;
const policies: readonly (readonly Augmentation[])[] = [
  ...augmentations.map((one) => [one]),
  ['translation', 'cutout'],
  augmentations,
];

const shapeOf = ({ N, C, T, H, W }: (typeof images)[number]) =>
  T === 1 ? [N, C, H, W] : [N, C, T, H, W];

each(
  'DiffAugment',
  images.flatMap((sizes) =>
    (sizes.H === 1 ? [augmentations] : policies).map((which, seed): OpCase => {
      const shape = shapeOf(sizes);
      const u = randomInput([sizes.N, 8], 50 + seed, 0, 1);
      return {
        name: `${which.join(', ')} of ${shape.join('×')}`,
        inputs: { x: randomInput(shape, seed), u },
        op: ({ x, u: draws }) => diffAugment(x!, draws!, which),
        forward: ({ x, u: draws }, r) => ({
          ...{ shape, data: augment({ x: x!, u: draws!, which, ...sizes }, r) },
        }),
        backward: ({ x, u: draws }, dy, r) => ({
          x: augmentBackward({ x: x!, u: draws!, which, ...sizes }, dy, r),
        }),
        // What takes a shift, a square and colours on its way back is rounded to f16 between them.
        halves: { inputs: ['x'], between: which.length === 3 ? 2 ** -8 : 0 },
      };
    }),
  ),
);

test.each([augmentations, ['color'] as const, ['cutout'] as const].map((kinds) => ({ kinds })))(
  'has second derivatives: $kinds',
  async ({ kinds }) => {
    const sizes = images[1];
    const shape = shapeOf(sizes);
    const data = { x: randomData(3 * 3 * 64, 1), u: randomData(24, 2, 0, 1) };
    const x = tensor(tape, Float32Array.from(data.x), shape, { requiresGrad: true });
    const u = tensor(tape, Float32Array.from(data.u), [3, 8]);
    // y = Ax + b, f = ½Σy²: its slope is Aᵀy, and the slope of ½Σ(Aᵀy)² is AᵀA·Aᵀy.
    const y = diffAugment(x, u, kinds);
    const [slope] = grad([sum(square(y))], [x], { createGraph: true });
    const [second] = grad([sum(square(slope!))], [x]);
    const one = { x: data.x, u: await u.read(), which: kinds, ...sizes };
    const at = (v: Float64Array) => augment({ ...one, x: v }, f64);
    const zero = at(new Float64Array(data.x.length));
    const linear = (v: Float64Array) => at(v).map((w, i) => w - zero[i]!);
    const back = (v: Float64Array) => augmentBackward(one, v, f64);
    const expected = back(linear(back(at(Float64Array.from(data.x))))).map((v) => 8 * v);
    expectClose(await second!.read(), expected, { abs: 1e-4, rel: 1e-5 }, 'second');
  },
);

describe('what is refused', () => {
  test.each([
    [
      [2, 3, 4],
      [2, 8],
    ],
    [
      [2, 3, 4, 4],
      [3, 8],
    ],
    [
      [2, 3, 4, 4],
      [2, 7],
    ],
  ])('images %j with draws %j', (shape, draws) => {
    const zeros = (of: number[]) => tensor(tape, new Float32Array(of.reduce((a, b) => a * b)), of);
    expect(() => diffAugment(zeros(shape), zeros(draws))).toThrow(RangeError);
  });
});

test('augmentation wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
