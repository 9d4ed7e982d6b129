import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.ts';
import { type Batch, Loader, type LoaderOptions } from '../../src/data/loader.ts';
import { memoryDataset } from '../../src/data/memory.ts';
import { UserError } from '../../src/util/errors.ts';

/** Image i is 2×2 with 4 i … 4 i + 3 (modulo 256); label i mod 3. */
function numbers(size: number, fingerprint = 'numbers'): Dataset {
  return memoryDataset({
    name: 'numbers',
    description: '',
    channels: 1,
    imageSize: 2,
    fingerprint,
    classes: ['0', '1', '2'],
    images: Uint8Array.from({ length: size * 4 }, (_, i) => i),
    labels: Uint32Array.from({ length: size }, (_, i) => i % 3),
  });
}

async function take(loader: Loader, n: number): Promise<Batch[]> {
  const batches: Batch[] = [];
  for (let i = 0; i < n; i++) batches.push(await loader.next());
  return batches;
}

const sizes = fc.integer({ min: 1, max: 40 });
const options: fc.Arbitrary<LoaderOptions> = fc.record({
  batch: fc.integer({ min: 1, max: 12 }),
  seed: fc.nat(),
  flip: fc.boolean(),
  prefetch: fc.nat(4),
});

/** Image i is [i], of class 0 for most: 30, 5 and 2 of three classes, and none of a fourth. */
function uneven(): Dataset {
  const labels = Uint32Array.from({ length: 37 }, (_, i) => (i < 30 ? 3 : i < 35 ? 0 : 1));
  return memoryDataset({
    ...{ name: 'uneven', description: '', channels: 1, imageSize: 1, fingerprint: 'uneven' },
    classes: ['a', 'b', 'empty', 'c'],
    images: Uint8Array.from(labels.keys()),
    labels,
  });
}

describe('a balanced Loader', () => {
  it('shows each class as often, and each image of one before any again', async () => {
    const loader = new Loader(uneven(), { batch: 12, seed: 1, balanced: true });
    for (let epoch = 0; epoch < 20; epoch++) {
      const batches = await take(loader, loader.batchesPerEpoch);
      for (const { labels } of batches) {
        expect([0, 1, 2, 3].map((c) => labels.filter((l) => l === c).length)).toEqual([4, 4, 0, 4]);
      }
      const seen = batches.flatMap((b) => [...b.indices]);
      const times = (from: number, to: number) =>
        Array.from({ length: to - from }, (_, i) => seen.filter((s) => s === from + i).length);
      expect(seen.length).toBe(36);
      expect([Math.max(...times(0, 30)), times(35, 37)]).toEqual([1, [6, 6]]);
      expect(times(30, 35).sort()).toEqual([2, 2, 2, 3, 3]);
    }
  });

  it('goes on from any position to the same batches, and is another order by epoch and seed', async () => {
    await fc.assert(
      fc.asyncProperty(options, fc.nat(30), async (opts, skip) => {
        const whole = new Loader(uneven(), { ...opts, balanced: true });
        await take(whole, skip);
        const saved = JSON.parse(JSON.stringify(whole.state()));
        expect(saved).toMatchObject({ balanced: true });
        const resumed = new Loader(uneven(), { ...opts, balanced: true });
        resumed.restore(saved);
        expect(await take(resumed, 5)).toEqual(await take(whole, 5));
      }),
      { numRuns: 30 },
    );
    const orders = await Promise.all(
      [1, 2].map(async (seed) => {
        const batches = await take(new Loader(uneven(), { batch: 37, seed, balanced: true }), 2);
        return batches.map(({ indices }) => indices.join());
      }),
    );
    expect(new Set(orders.flat()).size).toBe(4);
  });

  it('does not go on from an order that was not balanced, nor balances one class', () => {
    const balanced = new Loader(uneven(), { batch: 3, seed: 1, balanced: true });
    const plain = new Loader(uneven(), { batch: 3, seed: 1 });
    expect(() => {
      balanced.restore(plain.state());
    }).toThrow(
      new UserError(
        '--balanced is on now and was off when the run was saved: the order of images is another; go on as before or start a new run',
      ),
    );
    expect(() => {
      plain.restore(balanced.state());
    }).toThrow('--balanced is off now and was on');
    const one = { ...uneven(), classes: ['a'] };
    expect(() => new Loader(one, { batch: 3, seed: 1, balanced: true })).toThrow(
      new UserError(
        '--balanced: uneven is of one class; put its images into a folder for each class, or leave --balanced out',
      ),
    );
  });
});

describe('Loader', () => {
  it('measures how long its batches were waited for', async () => {
    const slow: Dataset = {
      ...numbers(10),
      read: () => new Promise((resolve) => setTimeout(resolve, 30)),
    };
    const loader = new Loader(slow, { batch: 2, seed: 1, prefetch: 0 });
    await take(loader, 2);
    expect(loader.waitMs).toBeGreaterThan(50);
    expect(loader.takeWait()).toBe(loader.waitMs);
    expect(loader.takeWait()).toBe(0);
    const ahead = new Loader(slow, { batch: 2, seed: 1 });
    await ahead.next();
    await new Promise((resolve) => setTimeout(resolve, 100));
    ahead.takeWait();
    await ahead.next();
    expect(ahead.takeWait()).toBeLessThan(20);
  });

  it('visits every index once an epoch, and drops what fills no batch', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, options, fc.nat(3), async (size, opts, epochs) => {
        const loader = new Loader(numbers(size), opts);
        for (let epoch = 0; epoch <= epochs; epoch++) {
          const batches = await take(loader, loader.batchesPerEpoch);
          const seen = batches.flatMap((b) => [...b.indices]);
          expect(batches.every((b) => b.epoch === epoch)).toBe(true);
          if (size >= opts.batch) {
            expect(new Set(seen).size).toBe(seen.length);
            expect(seen.length).toBe(size - (size % opts.batch));
          } else {
            expect(batches).toHaveLength(1);
            const counts = Array.from(
              { length: size },
              (_, i) => seen.filter((s) => s === i).length,
            );
            expect(seen.length).toBe(opts.batch);
            expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
          }
        }
      }),
    );
  });

  it('goes on from any position to the same batches, whatever was read ahead', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, options, fc.nat(30), fc.nat(4), async (size, opts, skip, ahead) => {
        const whole = new Loader(numbers(size), opts);
        await take(whole, skip);
        const saved = JSON.parse(JSON.stringify(whole.state()));
        const expected = await take(whole, 5);
        const resumed = new Loader(numbers(size), { ...opts, prefetch: ahead });
        await take(resumed, 2);
        resumed.restore(saved);
        expect(resumed.state()).toEqual(saved);
        expect(await take(resumed, 5)).toEqual(expected);
        expect(resumed.state()).toEqual(whole.state());
      }),
    );
  });

  it('counts batches, and gives images and labels of the indices', async () => {
    const loader = new Loader(numbers(10), { batch: 3, seed: 1 });
    const batches = await take(loader, 7);
    expect(batches.map((b) => b.index)).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(batches.map((b) => b.epoch)).toEqual([0, 0, 0, 1, 1, 1, 2]);
    for (const { indices, images, labels } of batches) {
      expect([...labels]).toEqual([...indices].map((i) => i % 3));
      expect([...images]).toEqual([...indices].flatMap((i) => [0, 1, 2, 3].map((k) => 4 * i + k)));
    }
    const at = { epoch: 2, cursor: 3, seed: 1, batch: 3, size: 10 };
    expect(loader.state()).toEqual({ ...at, data: 'numbers' });
  });

  it('orders epochs and seeds differently', async () => {
    const order = async (seed: number) => {
      const batches = await take(new Loader(numbers(40), { batch: 40, seed }), 3);
      return batches.map((b) => b.indices.join());
    };
    const all = [...(await order(1)), ...(await order(2))];
    expect(new Set(all).size).toBe(6);
    expect(await order(1)).toEqual(all.slice(0, 3));
  });

  it('mirrors about half of the images, each the same way whatever the batch', async () => {
    const mirrored = async (batch: number) => {
      const found = new Map<string, boolean>();
      const loader = new Loader(numbers(60), { batch, seed: 5, flip: true });
      for (const { images, indices, epoch } of await take(loader, 5 * loader.batchesPerEpoch)) {
        for (const [i, index] of indices.entries()) {
          const rows = [...images.subarray(4 * i, 4 * i + 4)];
          const [a, b, c, d] = [0, 1, 2, 3].map((k) => 4 * index + k) as [
            number,
            number,
            number,
            number,
          ];
          const flipped = rows[0] !== a;
          expect(rows).toEqual(flipped ? [b, a, d, c] : [a, b, c, d]);
          found.set(`${epoch}/${index}`, flipped);
        }
      }
      return found;
    };
    const found = await mirrored(1);
    expect(found.size).toBe(300);
    const count = [...found.values()].filter(Boolean).length;
    expect(Math.abs(count - 150)).toBeLessThan(5 * Math.sqrt(300 / 4));
    expect(new Map([...(await mirrored(20))].sort())).toEqual(new Map([...found].sort()));
    const perEpoch = [0, 1].map((e) =>
      Array.from({ length: 60 }, (_, i) => found.get(`${e}/${i}`)),
    );
    expect(perEpoch[0]).not.toEqual(perEpoch[1]);
  });

  it('reads ahead as many batches as asked, and keeps calls in order', async () => {
    const set = numbers(100);
    let reads = 0;
    const counting: Dataset = {
      ...set,
      async read(indices, out) {
        const wait = reads++ % 2 === 0 ? 5 : 0;
        await new Promise((resolve) => setTimeout(resolve, wait));
        await set.read(indices, out);
      },
    };
    const loader = new Loader(counting, { batch: 5, seed: 1, prefetch: 2 });
    expect(reads).toBe(0);
    await loader.next();
    expect(reads).toBe(3);
    const three = await Promise.all([loader.next(), loader.next(), loader.next()]);
    expect(three.map((b) => b.index)).toEqual([1, 2, 3]);
    expect(reads).toBe(6);
    await loader.close();
    expect(loader.state().cursor).toBe(20);
    expect((await loader.next()).index).toBe(4);
  });

  it('reports a failed read when its batch is asked for, and can try again', async () => {
    const set = numbers(10);
    let broken = true;
    const failing: Dataset = {
      ...set,
      async read(indices, out) {
        if (broken && indices.length > 0) throw new UserError('the disk is gone');
        await set.read(indices, out);
      },
    };
    const loader = new Loader(failing, { batch: 2, seed: 1 });
    await expect(loader.next()).rejects.toThrow('the disk is gone');
    expect(loader.state().cursor).toBe(0);
    broken = false;
    expect(await loader.next()).toEqual(await new Loader(set, { batch: 2, seed: 1 }).next());
  });

  it('refuses an empty set, a batch of nothing and a bad seed', () => {
    const make =
      (size: number, batch: number, seed = 1) =>
      () =>
        new Loader(numbers(size), { batch, seed });
    expect(make(0, 4)).toThrow(new UserError('numbers has no images to train on'));
    expect(make(4, 0)).toThrow(new UserError('batch is 0; it must be an integer from 1'));
    expect(make(4, 2, -1)).toThrow('seed is -1; it must be an integer from 0 to 2^53 - 1');
  });

  it('refuses a state from which the same batches cannot follow', () => {
    const loader = new Loader(numbers(10), { batch: 3, seed: 1 });
    const state = { epoch: 1, cursor: 3, seed: 1, batch: 3, size: 10, data: 'numbers' };
    expect(() => {
      loader.restore({ ...state, size: 12 });
    }).toThrow(
      new UserError(
        'numbers has 10 images now and had 12 when the run was saved; the order of images cannot be continued, ' +
          'so put the files back or start a new run',
      ),
    );
    const other = new Loader(numbers(10, 'others'), { batch: 3, seed: 1 });
    expect(() => {
      other.restore(state);
    }).toThrow(
      new UserError(
        'the images in numbers are not those the run was trained on, though there are 10 of them as before; ' +
          'put them back or start a new run',
      ),
    );
    // A checkpoint of before there were fingerprints.
    const old = { epoch: 1, cursor: 3, seed: 1, batch: 3, size: 10 };
    other.restore(old);
    expect(other.state()).toEqual({ ...old, data: 'others' });
    expect(() => {
      loader.restore({ ...state, batch: 4 });
    }).toThrow(
      new UserError(
        'batch is 3 now and was 4 when the run was saved; go on with 4 or start a new run',
      ),
    );
    expect(() => {
      loader.restore({ ...state, seed: 2 });
    }).toThrow('seed is 1 now and was 2');
    for (const cursor of [-3, 1, 9, NaN]) {
      expect(() => {
        loader.restore({ ...state, cursor });
      }).toThrow(`the saved position in the data is damaged: epoch 1, image ${cursor} of 10`);
    }
    loader.restore(state);
    expect(loader.state()).toEqual(state);
  });
});
