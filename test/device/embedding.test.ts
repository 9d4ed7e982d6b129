import { describe, expect, test } from 'vitest';
import { embedding, embeddingBackward } from '../../src/kernels/embedding.ts';
import {
  embedding as reference,
  embeddingBackward as backwardReference,
} from '../reference/embedding.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();

const cases = [
  { classes: 1, D: 1, index: [0] },
  { classes: 1, D: 5, index: [0, 0, 0] },
  { classes: 7, D: 3, index: [6, 0, 3, 3, 6, 6, 1] },
  { classes: 10, D: 64, index: Array.from({ length: 37 }, (_, i) => (i * i) % 10) },
  { classes: 101, D: 13, index: [100, 0, 50, 100] },
];

function inputs({ classes, D, index }: (typeof cases)[number]) {
  const count = index.length;
  return {
    table: randomData(classes * D, 1),
    dOut: randomData(count * D, 2),
    index: Uint32Array.from(index),
    count,
    classes,
    D,
  };
}

describe('embedding', () => {
  test.each(cases)('$classes rows of $D, index $index', async (c) => {
    const { table, dOut, index, count, classes, D } = inputs(c);
    const found = await execute(
      gpu,
      { table, dOut, index, out: count * D, dTable: classes * D },
      (s) => {
        embedding(gpu, { ...s, rows: count, D });
        embeddingBackward(gpu, { ...s, count, classes, D });
      },
      ['out', 'dTable'],
    );
    const given = { table, V: classes, D, index: c.index };
    expect(found.out).toEqual(Float32Array.from(reference(given, f64)));
    const expected = backwardReference(given, dOut, f64).dtable;
    const naive = backwardReference(given, dOut, f32).dtable;
    expectClose(found.dTable, expected, budget(expected, naive), 'dTable');
    // The order is the indices' own, so the bits are those of the plain loop.
    expect(found.dTable).toEqual(Float32Array.from(naive));
  });

  test('an index past the table gives zeros', async () => {
    const { out } = await execute(
      gpu,
      { table: randomData(6, 1), index: Uint32Array.of(1, 3, 0xffff_ffff), out: 6 },
      (s) => {
        embedding(gpu, { ...s, rows: 3, D: 2 });
      },
      ['out'],
    );
    expect([...out.subarray(2)]).toEqual([0, 0, 0, 0]);
  });

  test('gives the same bits twenty times', async () => {
    const { dOut, index, count, classes, D } = inputs(cases[3]!);
    await expectSameBits(() =>
      execute(
        gpu,
        { dOut, index, dTable: classes * D },
        (s) => {
          embeddingBackward(gpu, { ...s, count, classes, D });
        },
        ['dTable'],
      ),
    );
  });
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
