// One launch (or a few) on fresh, poisoned storages, and what they hold afterwards.
import { expect } from 'vitest';
import type { Gpu } from '../../src/gpu/device.ts';
import type { Storage } from '../../src/gpu/storage.ts';

/** Data to upload, or a number of f32 words to leave poisoned. */
export type Content = Float32Array | Uint32Array | Uint8Array | Float64Array | number;

function place(gpu: Gpu, name: string, content: Content): Storage {
  if (typeof content === 'number') return gpu.alloc(4 * content, name);
  const data = content instanceof Float64Array ? Float32Array.from(content) : content;
  const storage = gpu.alloc(data.byteLength, name);
  gpu.write(storage, data);
  return storage;
}

/** Places `contents`, runs `launch` on them and returns the storages named in `reads` as floats. */
export async function execute<C extends Record<string, Content>, R extends keyof C & string>(
  gpu: Gpu,
  contents: C,
  launch: (storages: { [K in keyof C]: Storage }) => void,
  reads: readonly R[],
): Promise<Record<R, Float32Array<ArrayBuffer>>> {
  const kept = gpu.scope(
    () => {
      const storages = Object.fromEntries(
        Object.entries(contents).map(([name, content]) => [name, place(gpu, name, content)]),
      ) as { [K in keyof C]: Storage };
      launch(storages);
      return reads.map((name) => storages[name]);
    },
    (storages) => storages,
  );
  const out = {} as Record<R, Float32Array<ArrayBuffer>>;
  for (const [i, name] of reads.entries()) {
    out[name] = new Float32Array(await gpu.read(kept[i]!));
  }
  kept.forEach((storage) => {
    gpu.release(storage);
  });
  return out;
}

/** The words behind floats, for comparisons to the bit. */
export function wordsOf(floats: Float32Array<ArrayBuffer>): Uint32Array {
  return new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
}

/** Runs `once` twenty times and demands the same bits each time. */
export async function expectSameBits(
  once: () => Promise<Record<string, Float32Array<ArrayBuffer>>>,
): Promise<void> {
  const first = await once();
  for (let i = 1; i < 20; i++) {
    const again = await once();
    for (const [name, floats] of Object.entries(first)) {
      expect(wordsOf(again[name]!), `${name}, run ${i + 1}`).toEqual(wordsOf(floats));
    }
  }
}
