// Event files for TensorBoard, byte for byte as test/golden/golden_tfevents.py makes them from the format's definition.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import {
  crc32c,
  histogramOf,
  record,
  sessionStart,
  summaryEvent,
  versionEvent,
} from '../../src/io/tfevents.ts';
import { randomData } from '../support/random.ts';

test('CRC-32C of RFC 3720', () => {
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_u, i) => i))).toBe(0x46dd794e);
  expect(crc32c(new Uint8Array())).toBe(0);
});

test('a file is that of an independent writer, to the byte', () => {
  const golden = readFileSync(fileURLToPath(new URL('../golden/tfevents.bin', import.meta.url)));
  const wall = 1234567890.125;
  const histogram = {
    ...{ tag: 'generator/main.0.weight', min: -1, max: 2.5, count: 4, sum: 3, sumOfSquares: 9.25 },
    ...{ limits: [-0.5, 0, 3], counts: [1, 0, 3] },
  };
  const png = Uint8Array.from({ length: 200 }, (_u, i) => i);
  const made = Buffer.concat([
    versionEvent(wall),
    sessionStart({ wallTime: wall, step: 301 }),
    summaryEvent(
      { wallTime: wall + 1, step: 300 },
      {
        scalars: [
          { tag: 'lossD', value: 1.2345 },
          { tag: 'gradNorm/G', value: -1e-7 },
        ],
      },
    ),
    summaryEvent(
      { wallTime: wall + 2, step: 70000 },
      { images: [{ tag: 'samples', width: 300, height: 2, png }], histograms: [histogram] },
    ),
  ]);
  expect(made.toString('hex')).toBe(golden.toString('hex'));
});

test('a record of nothing is sixteen bytes', () => {
  expect(record(new Uint8Array())).toHaveLength(16);
});

describe('a histogram', () => {
  test('counts every value once, in the bucket that ends at or behind it', () => {
    const values = Float32Array.from(randomData(1000, 3, -2, 5));
    const { limits, counts, count, min, max, sum, sumOfSquares } = histogramOf('w', values);
    expect(count).toBe(1000);
    expect(counts.reduce((a, b) => a + b)).toBe(1000);
    limits.forEach((limit, i) => {
      const from = i === 0 ? -Infinity : limits[i - 1]!;
      expect(counts[i], `up to ${limit}`).toBe(values.filter((v) => v > from && v <= limit).length);
      if (i > 0) expect(limit).toBeGreaterThan(from);
    });
    expect([min, max]).toEqual([Math.min(...values), Math.max(...values)]);
    expect(sum).toBeCloseTo(
      values.reduce((a, b) => a + b, 0),
      3,
    );
    expect(sumOfSquares).toBeCloseTo(
      values.reduce((a, b) => a + b * b, 0),
      3,
    );
  });

  test('of zeros, of tiny and huge values, and of none', () => {
    const zeros = histogramOf('w', new Float32Array(5));
    expect([zeros.count, zeros.min, zeros.max]).toEqual([5, 0, 0]);
    expect(zeros.counts.reduce((a, b) => a + b)).toBe(5);
    const odd = Float32Array.of(NaN, Infinity, 1e-30, -3e38, 3e38);
    const { count, counts, limits } = histogramOf('w', odd);
    expect([count, counts.reduce((a, b) => a + b)]).toEqual([3, 3]);
    expect(limits).toHaveLength(counts.length);
    expect(histogramOf('w', Float32Array.of(NaN))).toMatchObject({ count: 0, min: 0, max: 0 });
  });
});
