// The references reproduce PyTorch's numbers, op by op, values and gradients. A golden value is exact but for one rounding
// to float32, so the float64 reference must meet it within half an ulp; and the naive float32 loop must stay near enough
// for a device tolerance to mean something.
import { describe, expect, it } from 'vitest';
import { type GoldenCase, loadGoldenCases } from '../golden/load.ts';
import { adam, sgd } from '../reference/adam.ts';
import { type Attention, attention, attentionBackward } from '../reference/attention.ts';
import {
  type Conv2d,
  conv2d,
  conv2dBackward,
  type ConvTranspose2d,
  convTranspose2d,
  convTranspose2dBackward,
} from '../reference/conv.ts';
import { embedding, embeddingBackward } from '../reference/embedding.ts';
import { type Matmul, matmul, matmulBackward } from '../reference/matmul.ts';
import { budget, type Data, f32, f64, maxAbs, type Round } from '../reference/naive.ts';
import { type BatchNorm, batchNorm, batchNormBackward } from '../reference/norm.ts';
import {
  type ArithmeticName,
  binary,
  binaryBackward,
  type PointwiseName,
  unary,
  unaryBackward,
} from '../reference/pointwise.ts';
import {
  avgPool2d,
  avgPool2dBackward,
  maxPool2d,
  maxPool2dBackward,
  type Pool,
} from '../reference/pool.ts';
import { reduce, reduceBackward, type ReduceName } from '../reference/reduce.ts';
import {
  type Bilinear,
  bilinear,
  bilinearBackward,
  type Nearest,
  nearest,
  nearestBackward,
} from '../reference/resize.ts';
import { permute, type Shape } from '../reference/shape.ts';
import { softmax, softmaxBackward } from '../reference/softmax.ts';
import { spectralNorm, spectralNormBackward } from '../reference/spectral.ts';
import { expectClose } from '../support/close.ts';
import { rounding } from '../support/rounding.ts';

/** Largest budget, relative to the largest value, that a float32 kernel may be granted anywhere in these files. */
const WIDEST = 1e-3;

type Outputs = Readonly<Record<string, Data | undefined>>;

/** Runs one reference at both precisions and compares every output with the golden tensor of its name. */
function agree(golden: GoldenCase<object>, run: (r: Round) => Outputs, widest = WIDEST): void {
  const exact = run(f64);
  const naive = run(f32);
  const names = Object.keys(exact).filter((name) => exact[name] !== undefined);
  expect(names.length).toBeGreaterThan(0);
  for (const name of names) {
    const ref = exact[name]!;
    const what = `${golden.name}: ${name}`;
    expectClose(golden.get(name), ref, rounding(ref), what);
    const { abs } = budget(ref, naive[name]!);
    expect(abs, `${what}: budget`).toBeLessThan(widest * maxAbs(ref) + 1e-6);
  }
}

/** One test a case; fails when a file holds none. */
function eachCase<P>(file: string, test: (golden: GoldenCase<P>) => void): void {
  const cases = loadGoldenCases<P>(file);
  expect(cases.length).toBeGreaterThan(0);
  describe(file, () => {
    for (const golden of cases) it(golden.name, () => test(golden));
  });
}

eachCase<Omit<Matmul, 'a' | 'b'>>('matmul', (golden) => {
  const o = { ...golden.params, a: golden.get('a'), b: golden.get('b') };
  agree(golden, (r) => ({ y: matmul(o, r), ...matmulBackward(o, golden.get('dy'), r) }));
});

eachCase<{ rows: number; cols: number }>('softmax', (golden) => {
  const o = { ...golden.params, x: golden.get('x') };
  agree(golden, (r) => ({ y: softmax(o, r), ...softmaxBackward(o, golden.get('dy'), r) }));
});

eachCase<Omit<Attention, 'q' | 'k' | 'v'>>('attention', (golden) => {
  const { params, get } = golden;
  const o = { ...params, q: get('q'), k: get('k'), v: get('v') };
  agree(golden, (r) => ({ ...attention(o, r), ...attentionBackward(o, get('dy'), r) }));
});

eachCase<Omit<Conv2d, 'x' | 'w'>>('conv2d', (golden) => {
  const { params, get, has } = golden;
  const bias = has('bias') && { bias: get('bias') };
  const o = { ...params, x: get('x'), w: get('w'), ...bias };
  agree(golden, (r) => {
    const { dbias, ...grads } = conv2dBackward(o, get('dy'), r);
    return { y: conv2d(o, r), ...grads, ...(bias && { dbias }) };
  });
});

eachCase<Omit<ConvTranspose2d, 'x' | 'w'>>('conv_transpose2d', (golden) => {
  const { params, get, has } = golden;
  const bias = has('bias') && { bias: get('bias') };
  const o = { ...params, x: get('x'), w: get('w'), ...bias };
  agree(golden, (r) => {
    const { dbias, ...grads } = convTranspose2dBackward(o, get('dy'), r);
    return { y: convTranspose2d(o, r), ...grads, ...(bias && { dbias }) };
  });
});

eachCase<Omit<BatchNorm, 'x'>>('batch_norm', (golden) => {
  const { params, get, has } = golden;
  const affine = has('gamma') && { gamma: get('gamma'), beta: get('beta') };
  const running = has('runningMean') && {
    runningMean: get('runningMean'),
    runningVar: get('runningVar'),
  };
  const o = { ...params, x: get('x'), ...affine, ...running };
  // x − μ loses |μ|/σ of the float32 μ's own precision, and a sum of n numbers loses about √n ulp: 2·√n·(|μ|/σ)·2⁻²⁴
  const { mean, invStd } = batchNorm(o, f64);
  const condition = Math.max(...mean.map((mu, c) => Math.abs(mu) * invStd[c]!));
  const n = params.N * params.H * params.W;
  const widest = Math.max(WIDEST, 2 * Math.sqrt(n) * condition * 2 ** -24);
  const run = (r: Round) => {
    const { y, runningMean, runningVar } = batchNorm(o, r);
    const { dx, dgamma, dbeta } = batchNormBackward(o, get('dy'), r);
    return {
      y,
      dx,
      ...(affine && { dgamma, dbeta }),
      runningMeanAfter: runningMean,
      runningVarAfter: runningVar,
    };
  };
  agree(golden, run, widest);
});

interface Spectral {
  rows: number;
  cols: number;
  dim: number;
  shape: number[];
  eps: number;
}

eachCase<Spectral>('spectral_norm', (golden) => {
  const { params, get } = golden;
  const { rows, cols, dim, shape, eps } = params;
  const area = [shape[0]!, rows, cols / shape[0]!];
  const toMatrix = (x: Data) =>
    dim === 1 ? permute({ x, shape: area, order: [1, 0, 2] }, f64) : x;
  const fromMatrix = (x: Data) =>
    dim === 1 ? permute({ x, shape: [rows, shape[0]!, area[2]!], order: [1, 0, 2] }, f64) : x;
  agree(golden, (r) => {
    const out: Record<string, Data> = {};
    const dweight = toMatrix(get('dweight'));
    let state: { u: Data; v: Data } = { u: get('weight_u'), v: get('weight_v') };
    const call = (training: boolean, suffix: string) => {
      const o = { rows, cols, eps, ...state, w: toMatrix(get('weight_orig')), training };
      const { u, v, sigma, weight } = spectralNorm(o, r);
      out[`weight${suffix}`] = fromMatrix(weight);
      out[`grad${suffix}`] = fromMatrix(spectralNormBackward(o, dweight, r).dw);
      if (training) {
        out[`u${suffix}`] = u;
        out[`v${suffix}`] = v;
        out[`sigma${suffix}`] = [sigma];
      }
      state = { u, v };
    };
    for (const i of [1, 2, 3, 4]) call(true, String(i));
    call(false, '_eval');
    return out;
  });
});

eachCase<Omit<Pool, 'x'> & { kind: 'max' | 'avg' }>('pooling', (golden) => {
  const { kind, ...size } = golden.params;
  const o = { ...size, x: golden.get('x') };
  const dy = golden.get('dy');
  agree(golden, (r) =>
    kind === 'max'
      ? { y: maxPool2d(o, r), ...maxPool2dBackward(o, dy, r) }
      : { y: avgPool2d(o, r), ...avgPool2dBackward(o, dy, r) },
  );
});

eachCase<Omit<Bilinear & Nearest, 'x'> & { kind: string }>('resize', (golden) => {
  const { kind, ...size } = golden.params;
  const o = { ...size, x: golden.get('x') };
  const dy = golden.get('dy');
  agree(golden, (r) =>
    kind === 'nearest'
      ? { y: nearest(o, r), ...nearestBackward(o, dy, r) }
      : { y: bilinear(o, r), ...bilinearBackward(o, dy, r) },
  );
});

eachCase<{ V: number; D: number }>('embedding', (golden) => {
  const { params, get } = golden;
  const o = { ...params, table: get('table'), index: get('index') };
  agree(golden, (r) => ({ y: embedding(o, r), ...embeddingBackward(o, get('dy'), r) }));
});

eachCase<{ f: PointwiseName; slope?: number }>('activations', (golden) => {
  const { f, ...slope } = golden.params;
  const o = { ...slope, x: golden.get('x') };
  agree(golden, (r) => ({ y: unary(f, o, r), ...unaryBackward(f, o, golden.get('dy'), r) }));
});

eachCase<{ f: ArithmeticName; shapeA: Shape; shapeB: Shape }>('arithmetic', (golden) => {
  const { f, ...shapes } = golden.params;
  const o = { ...shapes, a: golden.get('a'), b: golden.get('b') };
  agree(golden, (r) => ({ y: binary(f, o, r), ...binaryBackward(f, o, golden.get('dy'), r) }));
});

eachCase<{ f: ReduceName; shape: Shape; axes: number[] }>('reduce', (golden) => {
  const { f, ...where } = golden.params;
  const o = { ...where, x: golden.get('x') };
  agree(golden, (r) => ({ y: reduce(f, o, r), ...reduceBackward(f, o, golden.get('dy'), r) }));
});

/** Row `step` of a [steps, n] trace. */
function row(x: Data, n: number, step: number): number[] {
  return Array.from({ length: n }, (_, i) => x[step * n + i]!);
}

type AdamOptions = { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number };

eachCase<AdamOptions>('adam', (golden) => {
  const { params, get } = golden;
  const n = get('p0').length;
  const steps = get('g').length / n;
  expect(steps).toBe(10);
  agree(golden, (r) => {
    let state: { p: Data; m: Data; v: Data } = {
      p: get('p0'),
      m: new Float64Array(n),
      v: new Float64Array(n),
    };
    const trace = { p: [] as number[], m: [] as number[], v: [] as number[] };
    for (let step = 1; step <= steps; step++) {
      state = adam({ ...params, ...state, g: row(get('g'), n, step - 1), step }, r);
      for (const key of ['p', 'm', 'v'] as const) trace[key].push(...Array.from(state[key]));
    }
    return trace;
  });
});

type SgdOptions = {
  lr: number;
  momentum: number;
  dampening: number;
  nesterov: boolean;
  weightDecay: number;
};

eachCase<SgdOptions>('sgd', (golden) => {
  const { params, get, has } = golden;
  const n = get('p0').length;
  agree(golden, (r) => {
    let p: Data = get('p0');
    let buffer: Data | undefined;
    const trace: number[] = [];
    for (let step = 0; step < get('g').length / n; step++) {
      const o = { ...params, p, g: row(get('g'), n, step), ...(buffer && { buffer }) };
      ({ p, buffer } = sgd(o, r));
      trace.push(...Array.from(p));
    }
    return { p: trace, ...(has('buffer') && { buffer }) };
  });
});
