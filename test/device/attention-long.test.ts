// Attention over 16,384 positions, forward and backward: memory stays linear in them, and sampled rows are right.
import { expect, inject, test } from 'vitest';
import { attention, attentionBackward } from '../../src/kernels/attention.ts';
import { expAllowance, logAllowance, maxAbs, softmaxAllowance } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { randomFloats } from '../support/random.ts';

// The map alone would take a gigabyte.
const memoryBytes = 2 ** 27;
const gpu = await openTestGpu({ memoryBytes });
const [N, DK, DV] = [16_384, 4, 8];
const dims = { B: 1, Nq: N, Nk: N, DK, DV, scale: 0.5, layout: 'channel' } as const;
const sampled = [0, 1, 4095, 8190, 16_383];

const make = (D: number, seed: number) => randomFloats(N * D, seed);
const [q, k, v, dOut] = [make(DK, 1), make(DK, 2), make(DV, 3), make(DV, 4)];

/** Σ over dims of a's position i and b's position j. */
function dot(a: Float32Array, i: number, b: Float32Array, j: number, D: number): number {
  let sum = 0;
  for (let d = 0; d < D; d++) sum += a[d * N + i]! * b[d * N + j]!;
  return sum;
}

const score = (i: number, j: number) => dims.scale * dot(q, i, k, j, DK);
/** acc += factor · position n of x. */
function add(acc: Float64Array, factor: number, x: Float32Array, n: number): void {
  acc.forEach((sum, d) => (acc[d] = sum + factor * x[d * N + n]!));
}

// SwiftShader takes a minute for it.
test.skipIf(inject('driver') === 'swiftshader')(
  '16,384 positions train in memory that is linear in them',
  async () => {
    const upload = (data: Float32Array) => {
      const storage = gpu.alloc(data.byteLength, 'attention');
      gpu.write(storage, data);
      return storage;
    };
    const empty = (n: number) => gpu.alloc(4 * n, 'attention');
    const given = { q: upload(q), k: upload(k), v: upload(v), dOut: upload(dOut) };
    const made = { out: empty(N * DV), lse: empty(N) };
    const gradients = { dq: empty(N * DK), dk: empty(N * DK), dv: empty(N * DV) };
    attention(gpu, { ...dims, ...given, ...made });
    attentionBackward(gpu, { ...dims, ...given, ...made, ...gradients });
    const read = async (storage: ReturnType<typeof empty>) =>
      new Float32Array(await gpu.read(storage));
    const [out, lse] = [await read(made.out), await read(made.lse)];
    const [dq, dk, dv] = [
      await read(gradients.dq),
      await read(gradients.dk),
      await read(gradients.dv),
    ];

    // Of the queries that nobody samples, log-sum-exp and delta are the kernel's own: its error is checked on those that are.
    const [lse64, delta64] = [Float64Array.from(lse), new Float64Array(N)];
    for (let i = 0; i < N; i++) delta64[i] = dot(dOut, i, out, i, DV);
    for (const i of sampled) {
      const weights = Float64Array.from({ length: N }, (_, j) => Math.exp(score(i, j)));
      const sum = weights.reduce((total, w) => total + w, 0);
      lse64[i] = Math.log(sum);
      delta64[i] = weights.reduce((total, w, j) => total + w * dot(dOut, i, v, j, DV), 0) / sum;
    }

    // Every term carries the error that WGSL grants exp at the largest exponent, twice that of the log-sum-exp, and each
    // sum of N terms in f32 an error of at most N half-ulps of the terms' sizes.
    const spread = 2 * dims.scale * DK * maxAbs(q) * maxAbs(k) + Math.log(N);
    const rounding = N * 2 ** -24;
    const relative =
      expAllowance(spread) + 2 * (softmaxAllowance(N) + logAllowance(Math.log(N))) + rounding;
    const at = (x: Float32Array, D: number, n: number) =>
      Float64Array.from({ length: D }, (_, d) => x[d * N + n]!);

    for (const n of sampled) {
      const [o, gq] = [new Float64Array(DV), new Float64Array(DK)];
      const [gk, gv] = [new Float64Array(DK), new Float64Array(DV)];
      const size = { o: 0, q: 0, k: 0, v: 0 };
      for (let j = 0; j < N; j++) {
        const w = Math.exp(score(n, j) - lse64[n]!);
        const ds = dims.scale * w * (dot(dOut, n, v, j, DV) - delta64[n]!);
        add(o, w, v, j);
        add(gq, ds, k, j);
        size.o += w;
        size.q += dims.scale * w * 2 * DV;
        const u = Math.exp(score(j, n) - lse64[j]!);
        const du = dims.scale * u * (dot(dOut, j, v, n, DV) - delta64[j]!);
        add(gv, u, dOut, j);
        add(gk, du, q, j);
        size.v += u;
        size.k += dims.scale * u * 2 * DV;
      }
      expectClose([lse[n]!], [lse64[n]!], { abs: relative }, `lse of ${n}`);
      expectClose(at(out, DV, n), o, { abs: relative * size.o }, `out of ${n}`);
      expectClose(at(dq, DK, n), gq, { abs: relative * size.q }, `dq of ${n}`);
      expectClose(at(dk, DK, n), gk, { abs: relative * size.k }, `dk of ${n}`);
      expectClose(at(dv, DV, n), gv, { abs: relative * size.v }, `dv of ${n}`);
    }
    expect(gpu.pool.stats().peakBytes).toBeLessThan(64 * 4 * N * (DK + DV));
  },
);
