// Seeded numbers for tests: the same data in every run, every process and both precisions.

/** mulberry32: uniform in [0, 1) from a 32-bit seed. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** n float32 values, uniform in [low, high], held in a Float64Array so that references can perturb them. */
export function randomData(n: number, seed: number, low = -1, high = 1): Float64Array {
  const next = uniform(seed);
  return Float64Array.from({ length: n }, () => Math.fround(low + (high - low) * next()));
}

/** The same as float32, for a kernel's input. */
export function randomFloats(n: number, seed: number, low = -1, high = 1): Float32Array {
  return Float32Array.from(randomData(n, seed, low, high));
}
