// The reference of DiffAugment reproduces PyTorch's numbers, values and gradients, and its gradient is the one of central differences.
import { describe, expect, test } from 'vitest';
import { loadGoldenCases } from '../golden/load.ts';
import { augment, augmentBackward } from '../reference/augment.ts';
import type { AugmentCase } from '../reference/augment.ts';
import { f64, toF32 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { checkGradient } from '../support/gradient.ts';
import { randomData } from '../support/random.ts';

const cases = loadGoldenCases<{ which: string[] }>('diff_augment').map(
  ({ name, params, get, tensors }) => {
    const shape = tensors.get('x')!.shape;
    const [N, C] = shape;
    const [H, W] = shape.slice(-2);
    const T = shape.length === 5 ? shape[2]! : 1;
    const sizes = { N: N!, C: C!, T, H: H!, W: W!, which: params.which };
    return { name, get, one: { x: get('x'), u: get('u'), ...sizes } satisfies AugmentCase };
  },
);

/** Half an ulp of the golden value, and what float64 loses. */
const limit = { rel: 2 ** -24, abs: 1e-9 };

describe('DiffAugment', () => {
  test('stills and clips, alone and together', () => {
    expect(cases).toHaveLength(12);
  });

  test.each(cases)('$name', ({ one, get }) => {
    expectClose(augment(one, f64), get('y'), limit, 'y');
    const dx = augmentBackward(one, get('dy'), f64);
    expectClose(dx, get('dx'), limit, 'dx');
    // Σ dx² is a square of a linear map of dy: its slope is twice the map without its constant, of dx.
    const still = { ...one, x: dx };
    const zero = augment({ ...one, x: dx.map(() => 0) }, f64);
    const second = augment(still, f64).map((y, i) => 2 * (y - zero[i]!));
    expectClose(second, get('second.dy'), limit, 'second.dy');
  });

  test('the gradient is that of central differences', () => {
    const sizes = { N: 2, C: 3, T: 2, H: 5, W: 6 };
    const which = ['color', 'translation', 'cutout'];
    const u = toF32(randomData(16, 3, 0, 1));
    checkGradient('augment', {
      inputs: [Float64Array.from(randomData(2 * 3 * 2 * 30, 4))],
      f: (x) => augment({ x, u, which, ...sizes }, f64),
      backward: (dy, x) => [augmentBackward({ x, u, which, ...sizes }, dy, f64)],
    });
  });
});
