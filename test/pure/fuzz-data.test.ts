import { expect, test } from 'vitest';
import { fuzzData } from '../fuzz/data.ts';

test('damaged images, IDX, CIFAR, NumPy, zip, tar and CSV files are read or refused, and nothing else happens', async () => {
  const counts = await fuzzData(20, 1);
  expect(counts.length).toBe(13);
  // Every kind meets damages that it notices and others that change only pixels or names.
  for (const { kind, cases, refused } of counts) {
    expect(cases, kind).toBeGreaterThanOrEqual(20);
    expect(refused, kind).toBeGreaterThan(0);
  }
});
