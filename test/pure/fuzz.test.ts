// A few hundred bad files of every kind; `node scripts/fuzz.mjs` tries thousands.
import { expect, test } from 'vitest';
import { fuzzFiles } from '../fuzz/files.ts';

test('bad weight files, checkpoints and configs are read or refused by one line, and nothing else happens', async () => {
  const counts = await fuzzFiles(150, 1);
  expect(counts).toHaveLength(5);
  for (const { kind, cases, refused } of counts) {
    expect(cases, kind).toBe(150);
    expect(refused, kind).toBeGreaterThan(cases / 5);
  }
});
