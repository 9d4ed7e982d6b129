// The weights and images of golden_inception.py, by the same formula.
import type { Shape } from '../../src/util/shape.ts';
import { sizeOf } from '../../src/util/shape.ts';

/** Word i of a salt: a hash of both. */
function word(i: number, salt: number): number {
  let h = (Math.imul(i + 1, 2654435761) + Math.imul(salt, 2246822519)) >>> 0;
  for (const multiplier of [0x45d9f3b, 0x119de1f3]) h = Math.imul((h >>> 16) ^ h, multiplier) >>> 0;
  return ((h >>> 16) ^ h) >>> 0;
}

/** Numbers in [−0.5, 0.5), times a factor and shifted. */
function centred(n: number, salt: number, { times, plus = 0 }: { times: number; plus?: number }) {
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) out[i] = ((word(i, salt) >>> 8) * 2 ** -24 - 0.5) * times + plus;
  return out;
}

/** A value for each tensor of the net, by its name and shape. */
export function inceptionWeights(
  shapes: ReadonlyMap<string, Shape>,
): Map<string, { shape: Shape; data: Float32Array }> {
  const names = [...shapes.keys()].sort();
  return new Map(
    names.map((name, salt) => {
      const shape = shapes.get(name) ?? [];
      const n = sizeOf(shape);
      const how = () => {
        if (name.endsWith('conv.weight')) return { times: Math.sqrt(24 / (n / (shape[0] ?? 1))) };
        if (name === 'fc.weight') return { times: Math.sqrt(12 / 2048) };
        return /(bn\.weight|running_var)$/.test(name) ? { times: 0.5, plus: 1 } : { times: 0.2 };
      };
      return [name, { shape, data: centred(n, salt, how()) }];
    }),
  );
}

/** Bytes of images. */
export function inceptionPixels(n: number, salt: number): Uint8Array {
  return Uint8Array.from({ length: n }, (_u, i) => word(i, salt) >>> 24);
}
