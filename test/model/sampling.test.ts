// Images of a plan: the same whatever they are made with, streamed to a folder, with standing statistics.
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { decodePng, toByte } from '../../src/io/png.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { createGan } from '../../src/train/gan.ts';
import { sampleBatches } from '../../src/train/sample.ts';
import { Sampler } from '../../src/train/sampler.ts';
import { rangePlan } from '../../src/train/sampling/plan.ts';
import { manifestName, readyFolder, streamSamples } from '../../src/train/sampling/stream.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu();
const options = { data: 'none', preset: 'sagan-32-tiny', imageSize: 8, width: 2, latentSize: 6 };
const config = resolveConfig({ ...options, batch: 4, attentionAt: [4] });
const { average } = createGan(new Tape(gpu), config);
const plan = rangePlan(config, 10);
const identity = { step: 3, seed: 0 };
const folder = mkdtempSync(join(tmpdir(), 'wgsagan-sampling-'));
let sampler: Sampler;

beforeAll(async () => {
  sampler = await Sampler.open(average, { ...config, batch: 4 });
  sampler.settle();
});
afterAll(() => {
  sampler.close();
  rmSync(folder, { recursive: true });
});

async function imagesOf(wanted?: number[]): Promise<Map<number, Float32Array>> {
  const found = new Map<number, Float32Array>();
  const given = { latentSize: 6, ...(wanted === undefined ? {} : { wanted }) };
  for await (const { indices, images } of sampleBatches(sampler, plan, given)) {
    const each = images.length / indices.length;
    indices.forEach((index, i) => found.set(index, images.slice(i * each, (i + 1) * each)));
  }
  return found;
}

test('an image depends on its seed and index, not on those beside it', async () => {
  const all = await imagesOf();
  expect([...all.keys()]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  for (const [index, image] of await imagesOf([9, 2, 3, 8, 5])) {
    expect(image, String(index)).toEqual(all.get(index));
  }
  expect(all.get(1)).not.toEqual(all.get(2));
});

test('a folder gets the images that are missing, and is no other’s', async () => {
  const into = join(folder, 'each');
  const ready = (of = plan, more: object = {}) =>
    readyFolder(into, of, { identity, ending: 'png', replace: false, ...more });
  const first = await ready(rangePlan({ ...config, first: 5 }, 2));
  expect(first.missing).toEqual([0, 1]);
  const told: number[] = [];
  const onWritten = (count: number) => told.push(count) > 0;
  const later = rangePlan({ ...config, first: 5 }, 2);
  expect(await streamSamples(sampler, later, { config, into: first, onWritten })).toBe(2);
  writeFileSync(join(into, '0000005.png'), 'kept');
  writeFileSync(join(into, '.0000007.png.12-0.tmp'), 'cut');
  const rest = await ready();
  expect(rest.missing).toEqual([0, 1, 2, 3, 4, 7, 8, 9]);
  expect(await streamSamples(sampler, plan, { config, into: rest, onWritten })).toBe(8);
  expect(told).toEqual([0, 2, 0, 4, 8]);
  const names = Array.from({ length: 10 }, (_u, i) => `000000${i}.png`);
  expect(readdirSync(into)).toEqual([...names, manifestName]);
  expect(readFileSync(join(into, '0000005.png'), 'utf8')).toBe('kept');
  const all = await imagesOf();
  for (const index of [0, 6, 9]) {
    const { pixels, width, height } = decodePng(readFileSync(join(into, names[index]!)));
    expect([width, height]).toEqual([8, 8]);
    const image = all.get(index)!;
    const wanted = [...pixels].map((_b, i) => toByte(image[(i % 3) * 64 + Math.floor(i / 3)]!));
    expect([...pixels]).toEqual(wanted);
  }

  const other = { identity: { ...identity, seed: 1 } };
  const before = readFileSync(join(into, manifestName));
  await expect(ready(plan, other)).rejects.toThrow(
    /holds other images, 0000000\.png among them; choose another folder, or give --replace/,
  );
  expect(readFileSync(join(into, manifestName)).equals(before)).toBe(true);
  expect((await ready(plan, { ...other, replace: true })).missing).toHaveLength(10);
});

test('images that nobody made here are not written over', async () => {
  const into = join(folder, 'mine');
  await readyFolder(into, plan, { identity, ending: 'png', replace: false });
  rmSync(join(into, manifestName));
  writeFileSync(join(into, '0000003.png'), 'mine');
  const again = readyFolder(into, plan, { identity, ending: 'png', replace: false });
  await expect(again).rejects.toThrow('holds other images, 0000003.png among them');
  const beside = rangePlan({ ...config, first: 20 }, 3);
  const ready = await readyFolder(into, beside, { identity, ending: 'png', replace: false });
  expect(ready.missing).toHaveLength(3);
});

test('told to stop, it writes the batch in hand whole, and no other', async () => {
  const into = await readyFolder(join(folder, 'stopped'), plan, {
    ...{ identity, ending: 'png', replace: false },
  });
  const onWritten = (count: number) => count < 4;
  expect(await streamSamples(sampler, plan, { config, into, onWritten })).toBe(4);
  expect(readdirSync(into.folder)).toHaveLength(5);
});

test('standing statistics are nearer to those of much noise than settled ones are', async () => {
  const statistics = async () => {
    const found = [...average.namedBuffers()].filter(([name]) => name.includes('running_'));
    return (await Promise.all(found.map(([, t]) => t.read()))).flatMap((values) => [...values]);
  };
  const distance = (a: number[], b: number[]) => Math.hypot(...a.map((v, i) => v - b[i]!));
  expect(await sampler.stand(400)).toBe(true);
  const much = await statistics();
  sampler.settle();
  const settled = await statistics();
  await sampler.stand(60);
  expect(distance(await statistics(), much)).toBeLessThan(0.5 * distance(settled, much));
  expect(settled).not.toEqual(much);
});
