// The picture of `wgsagan attention`: what is marked, and where it is brightest.
import { expect, test } from 'vitest';
import { drawOverlay, pointColours } from '../../src/train/attention/overlay.ts';
import { rowsToBytes } from '../../src/train/attention/record.ts';

const side = 32;
const image = new Float32Array(3 * side ** 2).fill(0.2);
const points = [
  [4, 8],
  [20, 30],
] as const;
const heat = (largest: number) => ({
  weights: Float32Array.from({ length: 64 }, (_u, i) => (i === largest ? 0.5 : 0.1)),
  size: [8, 8] as const,
});
// zoom 8: panels of 256 pixels, 8 apart
const at = (row: number, column: number, [y, x]: readonly [number, number]) => [
  8 + row * 264 + Math.floor((y + 0.5) * 8),
  8 + column * 264 + Math.floor((x + 0.5) * 8),
];

test('a row a block and head, a column a point: marked, framed in its colour, bright where it looks', () => {
  const rows = [
    [heat(10), heat(63)],
    [heat(0), heat(1)],
  ];
  const picture = drawOverlay({ image, channels: 3, side, points, rows });
  expect(picture).toMatchObject({ width: 8 + 3 * 264, height: 8 + 2 * 264, channels: 3 });
  const pixel = ([y = 0, x = 0]: number[]) => [
    ...picture.pixels.subarray(3 * (y * picture.width + x), 3 * (y * picture.width + x) + 3),
  ];
  const [red, green] = pointColours.map(({ rgb }) => [...rgb]);
  for (const row of [0, 1]) {
    expect(pixel(at(row, 0, points[0]))).toEqual(red);
    expect(pixel(at(row, 0, points[1]))).toEqual(green);
    expect(pixel(at(row, 0, [10, 10]))).toEqual([153, 153, 153]);
    // in each panel of heat its own point alone
    expect(pixel(at(row, 1, points[0]))).toEqual(red);
    expect(pixel(at(row, 2, points[1]))).toEqual(green);
    expect(pixel(at(row, 1, points[1]))).not.toEqual(green);
    expect(pixel([9 + row * 264, 280])).toEqual(red);
    expect(pixel([9 + row * 264, 544])).toEqual(green);
  }
  // position 10 of 8×8 is row 1, column 2: pixels 4…7, 8…11
  const level = (where: number[]) => pixel(where).reduce((sum, v) => sum + v, 0);
  expect(level(at(0, 1, [6, 11]))).toBeGreaterThan(2 * level(at(0, 1, [6, 13])));
  expect(level(at(0, 2, [29, 28]))).toBeGreaterThan(2 * level(at(0, 2, [20, 20])));
});

test('grey images are drawn grey', () => {
  const grey = new Float32Array(side ** 2).fill(-1);
  const rows = [[heat(0)]];
  const { pixels, width } = drawOverlay({ image: grey, channels: 1, side, points: [[0, 0]], rows });
  expect([...pixels.subarray(3 * (100 * width + 100), 3 * (100 * width + 101))]).toEqual([0, 0, 0]);
});

test('rows of weights become bytes whose largest is 255', () => {
  const bytes = rowsToBytes(Float32Array.of(0.1, 0.2, 0.4, 1e-6, 5e-7, 0, 0, 0, 0), 3);
  expect([...bytes]).toEqual([64, 128, 255, 255, 128, 0, 0, 0, 0]);
});
