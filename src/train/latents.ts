import { HostRng } from '../util/philox.ts';

/** Streams of random numbers: the latents, and what replaces those of their numbers that a truncation refuses. */
const stream = { latents: 3, replacements: 10 } as const;

/** Words of random numbers that a normal one takes. */
const wordsEach = 2;

export interface LatentOptions {
  /** ψ: numbers past ±ψ are drawn again until they are within. Default: none is. */
  readonly truncation?: number | undefined;
}

/**
 * The latent vector (latentSize) that a seed has at an index from 0, whatever others are drawn: normal numbers, or with a
 * truncation (Brock et al. 2019, §3.1) normal ones of which none lies past ±ψ. Those of them that do not need to be drawn again
 * are the same for every ψ.
 */
export function latentOf(
  seed: number,
  index: number,
  latentSize: number,
  { truncation = Infinity }: LatentOptions = {},
): Float32Array {
  const counter = index * latentSize * wordsEach;
  const rng = new HostRng(seed, { stream: [stream.latents, 0], counter });
  const again = new HostRng(seed, { stream: [stream.replacements, index] });
  return Float32Array.from({ length: latentSize }, () => {
    let value = Math.fround(rng.normal());
    while (Math.abs(value) > truncation) value = Math.fround(again.normal());
    return value;
  });
}

/** Latent vectors (count, latentSize) of a seed; row i is the same for every count. */
export function latents(
  seed: number,
  count: number,
  latentSize: number,
  options: LatentOptions & { readonly first?: number } = {},
): Float32Array {
  const { first = 0 } = options;
  return rowsOf(count, latentSize, (i) => latentOf(seed, first + i, latentSize, options));
}

/** Rows (count, size), each made by itself. */
export function rowsOf(
  count: number,
  size: number,
  row: (i: number) => Float32Array,
): Float32Array {
  const out = new Float32Array(count * size);
  for (let i = 0; i < count; i++) out.set(row(i), i * size);
  return out;
}

/**
 * Spherical interpolation (Shoemake 1985; White 2016 for latents) from a (t = 0) to b (t = 1), along the arc between them: the
 * lengths on the way are between those of the ends, where a straight line would pass near 0. Vectors that (nearly) lie on one
 * line are mixed straight.
 */
export function slerp(a: Float32Array, b: Float32Array, t: number): Float32Array {
  const dot = (x: Float32Array, y: Float32Array) =>
    x.reduce((sum, v, i) => sum + v * (y[i] ?? 0), 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.sin(angle);
  const straight = !(sine > 1e-4);
  const [from, to] = straight
    ? [1 - t, t]
    : [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine];
  return a.map((v, i) => from * v + to * (b[i] ?? 0));
}
