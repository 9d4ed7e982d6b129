// The reference of the adversarial losses reproduces PyTorch's, values and gradients.
import { expect, test } from 'vitest';
import { losses, type LossName } from '../../src/train/losses.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { ganLosses } from '../reference/losses.ts';
import { f64 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { rounding } from '../support/rounding.ts';

const cases = loadGoldenCases<{ loss: LossName; smoothing: number }>('losses');

test('every loss has a golden case', () => {
  expect(new Set(cases.map(({ params }) => params.loss))).toEqual(new Set(Object.keys(losses)));
});

test.each(cases)('$name', ({ params, get }) => {
  const exact = ganLosses({ ...params, real: get('real'), fake: get('fake') }, f64);
  for (const key of ['d', 'g'] as const) {
    expectClose([exact[key]], get(key), rounding(get(key), exact.scale), key);
  }
  for (const key of ['dReal', 'dFake', 'gFake'] as const) {
    get(key).forEach((slope, i) => {
      // PyTorch subtracts the label from σ(x), which loses a slope below 2⁻⁵³.
      const limit = { rel: 2 ** -24, abs: 2 ** -53 };
      expectClose([exact[key][i]!], [slope], limit, `${key} ${i}`);
    });
  }
});
