import { expect, test } from 'vitest';
import { fuzzData } from '../fuzz/data.ts';

test('damaged images, IDX, CIFAR, NumPy, zip, tar and CSV files are read or refused, and nothing else happens', async () => {
  const { cases, kinds } = await fuzzData(340, 1);
  const all = Object.values(kinds);
  expect(all.reduce((sum, { refused, read }) => sum + refused + read, 0)).toBe(cases);
  // Every kind meets damages that it notices and others that change only pixels or names.
  expect(Object.entries(kinds).filter(([, { refused }]) => refused === 0)).toEqual([]);
  expect(all.length).toBe(13);
});
