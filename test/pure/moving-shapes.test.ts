// The generated clips: the same bytes in every call, even flight between bounces, mirroring, and what is refused.
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { checkFrames, openDataset } from '../../src/data/dataset.ts';
import type { Dataset } from '../../src/data/dataset.ts';
import { Loader } from '../../src/data/loader.ts';
import { openMovingShapes } from '../../src/data/moving-shapes.ts';
import { UserError } from '../../src/util/errors.ts';

const sizes = { n: 12, frames: 8, imageSize: 32, channels: 3 } as const;

async function clips(set: Dataset, indices: readonly number[]): Promise<Uint8Array> {
  const { channels, frames, imageSize } = set;
  const out = new Uint8Array(indices.length * channels * frames * imageSize ** 2);
  await set.read(indices, out);
  return out;
}

/** Where the light of a frame lies on the whole, in pixels, and how much there is. */
function centreOf(frame: Uint8Array, size: number) {
  const light = [...frame].map((v) => v - 16);
  const total = light.reduce((sum, v) => sum + v, 0);
  const mean = (at: (i: number) => number) =>
    light.reduce((sum, v, i) => sum + v * at(i), 0) / total;
  return { total, x: mean((i) => i % size), y: mean((i) => Math.floor(i / size)) };
}

describe('moving shapes', () => {
  test('are the same on every machine', async () => {
    const all = await clips(openMovingShapes(sizes), [0, 1, 2, 11]);
    expect(createHash('sha256').update(all).digest('hex').slice(0, 16)).toBe('d13f27fb10bb8243');
  });

  test('are a matter of their number alone, whatever is read with them and however many there are', async () => {
    const set = openMovingShapes(sizes);
    const [both, alone] = [await clips(set, [5, 3]), await clips(set, [3])];
    expect(both.subarray(both.length / 2)).toEqual(alone);
    expect(await clips(openMovingShapes({ ...sizes, n: 4 }), [3])).toEqual(alone);
    expect([0, 1, 2, 3].map((i) => set.label(i))).toEqual([0, 1, 2, 0]);
    expect(set.classes).toEqual(['disc', 'square', 'triangle']);
  });

  test('of other sizes have another fingerprint', () => {
    const other = [{}, { n: 13 }, { frames: 4 }, { imageSize: 16 }, { channels: 1 as const }];
    const prints = other.map((change) => openMovingShapes({ ...sizes, ...change }).fingerprint);
    expect(new Set(prints).size).toBe(other.length);
    expect(openMovingShapes(sizes).fingerprint).toBe(prints[0]);
  });

  test('fly evenly, turn only at the borders, and stay whole', async () => {
    const [n, frames, size] = [24, 16, 32];
    const set = openMovingShapes({ n, frames, imageSize: size, channels: 1 });
    const all = await clips(
      set,
      Array.from({ length: n }, (_u, i) => i),
    );
    let turns = 0;
    for (let i = 0; i < n; i++) {
      const path = Array.from({ length: frames }, (_u, t) => {
        const from = (i * frames + t) * size ** 2;
        return centreOf(all.subarray(from, from + size ** 2), size);
      });
      const area = path.map(({ total }) => total / path[0]!.total);
      expect(Math.max(...area.map((a) => Math.abs(a - 1))), `clip ${i}`).toBeLessThan(0.05);
      for (const axis of ['x', 'y'] as const) {
        const at = path.map((p) => p[axis]);
        const steps = at.slice(1).map((p, t) => p - at[t]!);
        const speed = Math.max(...steps.map(Math.abs));
        expect(speed, `clip ${i}`).toBeGreaterThan(0.02 * size * 0.9);
        steps.forEach((step, t) => {
          if (Math.abs(Math.abs(step) - speed) < 0.25) return;
          turns += 1;
          const border = Math.min(at[t]!, at[t + 1]!, size - 1 - at[t]!, size - 1 - at[t + 1]!);
          expect(border, `clip ${i} turns in frame ${t}`).toBeLessThan(0.35 * size);
        });
      }
    }
    expect(turns).toBeGreaterThan(n / 2);
  });

  test('are mirrored in all frames of a clip and all its colours, or in none', async () => {
    const set = openMovingShapes(sizes);
    const loader = new Loader(set, { batch: 12, seed: 4, flip: true });
    const { images, indices } = await loader.next();
    await loader.close();
    const plain = await clips(set, [...indices]);
    const rows = (bytes: Uint8Array, clip: number) => {
      const each = bytes.length / 12;
      const own = bytes.subarray(clip * each, (clip + 1) * each);
      return Array.from({ length: each / 32 }, (_u, r) => [...own.subarray(32 * r, 32 * r + 32)]);
    };
    const mirrored = [...indices].map((_u, clip) => {
      const [found, wanted] = [rows(images, clip), rows(plain, clip)];
      if (JSON.stringify(found) === JSON.stringify(wanted)) return false;
      expect(found).toEqual(wanted.map((row) => row.toReversed()));
      return true;
    });
    expect(new Set(mirrored).size).toBe(2);
  });
});

describe('stills and clips', () => {
  const complaint = async (body: () => unknown) => {
    const error: unknown = await Promise.resolve()
      .then(body)
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  };

  test('are not taken for one another', async () => {
    const options = { imageSize: 32, channels: 3, cacheDir: 'none' } as const;
    expect(await complaint(() => openDataset('moving-shapes', options))).toBe(
      '--data moving-shapes is a set of clips, and stills are wanted: a video preset takes it',
    );
    expect(await complaint(() => openDataset('avatars', { ...options, frames: 8 }))).toBe(
      '--data avatars is a set of stills, and clips of 8 frames are wanted: give --data moving-shapes, or a preset of stills',
    );
    expect(() => {
      checkFrames('photos', 'images', 1);
    }).not.toThrow();
    const { frames, size } = await openDataset('moving-shapes', { ...options, frames: 4 });
    expect([frames, size]).toEqual([4, 6000]);
  });
});
