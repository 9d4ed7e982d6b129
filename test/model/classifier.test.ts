// The classifier that images are measured in: trained to the same bits, giving back what it borrowed, and told its turns rightly.
import { expect, test } from 'vitest';
import { memoryDataset } from '../../src/data/memory.ts';
import { ClassifierExtractor } from '../../src/train/eval/classifier.ts';
import {
  classifierRecipe,
  trainClassifier,
  turnedImages,
} from '../../src/train/eval/classifier-training.ts';
import { openTestGpu } from '../support/device.ts';
import { uniform } from '../support/random.ts';

const gpu = await openTestGpu();
const size = 8;
const each = 3 * size ** 2;
const next = uniform(5);
const count = 90;

/** Images that are bright above, red in one class and blue in the other, with noise. */
const dataset = memoryDataset({
  ...{ name: 'halves', description: '', fingerprint: 'halves', channels: 3, imageSize: size },
  classes: ['red', 'blue'],
  labels: Uint32Array.from({ length: count }, (_u, i) => i % 2),
  images: Uint8Array.from({ length: count * each }, (_u, at) => {
    const [i, channel, y] = [
      Math.floor(at / each),
      Math.floor(at / size ** 2) % 3,
      Math.floor(at / size) % size,
    ];
    const bright = y < size / 2 && channel === 2 * (i % 2);
    return (bright ? 180 : 20) + 40 * next();
  }),
});
const recipe = { ...classifierRecipe, width: 8, steps: 150, batch: 16, mostEpochs: 100 };

test('trained twice it has the same bits, knows what it was not shown, and leaves no memory behind', async () => {
  const before = gpu.pool.stats();
  const told: string[] = [];
  const onWork = (done: number, total: number) => told.push(`${done} of ${total}`);
  const first = await trainClassifier(gpu, dataset, { recipe, onWork });
  const tables = gpu.pool.stats();
  const second = await trainClassifier(gpu, dataset, { recipe });
  expect(told.at(-1)).toBe('150 of 150');
  expect(second.hash).toBe(first.hash);
  expect(first.heldOut).toBe(9);
  expect(first.accuracy['class']).toBeGreaterThan(0.8);
  expect(first.accuracy['turn']).toBeGreaterThan(0.8);
  // What stays of the first are tables of the device's own.
  expect(gpu.pool.stats().liveBytes).toBe(tables.liveBytes);
  expect(tables.liveBytes - before.liveBytes).toBeLessThan(2 ** 17);

  const extractor = await ClassifierExtractor.open(gpu, first);
  const n = 70;
  const bytes = new Uint8Array(n * each);
  await dataset.read(
    Array.from({ length: n }, (_u, i) => i),
    bytes,
  );
  const all = await extractor.features({ bytes, n, channels: 3, size });
  const last = bytes.slice((n - 1) * each);
  const one = await extractor.features({ bytes: last, n: 1, channels: 3, size });
  expect(all.features.length).toBe(n * extractor.featureSize);
  expect(one.features).toEqual(all.features.slice(-extractor.featureSize));
  expect(one.probabilities).toEqual(all.probabilities?.slice(-2));
  const sum = one.probabilities?.reduce((s, p) => s + p, 0);
  expect(sum).toBeCloseTo(1, 6);
  extractor.close();
  expect(gpu.pool.stats().liveBytes).toBe(tables.liveBytes);
});

test('images are turned to the left by 0, 1, 2 and 3 quarters', () => {
  const one = [1, 2, 3, 4];
  const { bytes, by } = turnedImages(Uint8Array.from([...one, ...one, ...one, ...one]), {
    ...{ n: 4, channels: 1, imageSize: 2 },
  });
  expect([...by]).toEqual([0, 1, 2, 3]);
  expect([...bytes]).toEqual([1, 2, 3, 4, 2, 4, 1, 3, 4, 3, 2, 1, 3, 1, 4, 2]);
});
