// The two attention blocks and the small SAGAN of golden/golden_models.py, composed from the references: forward, backward,
// and whole training steps at either precision. A net is a state dict under PyTorch's names; a layer returns its output
// and a function that takes dy, adds to `grads` and returns dx.
import { adam } from './adam.ts';
import { attention, attentionBackward } from './attention.ts';
import {
  type Conv2d,
  conv2d,
  conv2dBackward,
  type ConvTranspose2d,
  convTranspose2d,
  convTranspose2dBackward,
} from './conv.ts';
import { type Data, type Round } from './naive.ts';
import { batchNorm, batchNormBackward } from './norm.ts';
import { type PointwiseName, unary, unaryBackward } from './pointwise.ts';
import { maxPool2d, maxPool2dBackward } from './pool.ts';
import { permute } from './shape.ts';
import { spectralNorm, spectralNormBackward } from './spectral.ts';

export interface Net {
  /** Parameters and buffers. A forward replaces the running statistics, and u and v unless they are frozen. */
  readonly state: Map<string, Float64Array>;
  readonly frozenUv: boolean;
  readonly grads: Map<string, Float64Array>;
  readonly r: Round;
}

export interface Layer {
  readonly y: Float64Array;
  readonly back: (dy: Float64Array) => Float64Array;
}

export function makeNet(state: Iterable<readonly [string, Data]>, r: Round, frozenUv = false): Net {
  const entries = [...state].map(([key, data]) => [key, Float64Array.from(data)] as const);
  return { state: new Map(entries), grads: new Map(), r, frozenUv };
}

function get(net: Net, name: string): Float64Array {
  const found = net.state.get(name);
  if (!found) throw new Error(`the net has no ${name}`);
  return found;
}

function addGrad(net: Net, name: string, g: Float64Array): void {
  const old = net.grads.get(name);
  net.grads.set(name, old ? old.map((a, i) => net.r(a + g[i]!)) : g);
}

/**
 * A layer's weight: as stored, or normalised when the state has `weight_orig`. `cin`: the layer is a transposed
 * convolution [cin, rows, R, S], whose matrix has axis 1 for its rows.
 */
function weightOf(net: Net, name: string, rows: number, cin?: number) {
  const { r } = net;
  if (net.state.has(`${name}.weight`)) {
    const key = `${name}.weight`;
    return { w: get(net, key), back: (dw: Float64Array) => addGrad(net, key, dw) };
  }
  const orig = get(net, `${name}.weight_orig`);
  const swap = (x: Float64Array, from: number, to: number) =>
    permute({ x, shape: [from, to, x.length / from / to], order: [1, 0, 2] }, r);
  const toMatrix = (x: Float64Array) => (cin === undefined ? x : swap(x, cin, rows));
  const fromMatrix = (x: Float64Array) => (cin === undefined ? x : swap(x, rows, cin));
  const matrix = { w: toMatrix(orig), rows, cols: orig.length / rows };
  const start = { u: get(net, `${name}.weight_u`), v: get(net, `${name}.weight_v`) };
  const { u, v, weight } = spectralNorm({ ...matrix, ...start, training: !net.frozenUv }, r);
  net.state.set(`${name}.weight_u`, u);
  net.state.set(`${name}.weight_v`, v);
  return {
    w: fromMatrix(weight),
    back: (dw: Float64Array) => {
      const o = { ...matrix, u, v, training: false };
      addGrad(net, `${name}.weight_orig`, fromMatrix(spectralNormBackward(o, toMatrix(dw), r).dw));
    },
  };
}

type ConvSize = Omit<Conv2d, 'x' | 'w' | 'bias'>;
type ConvTransposeSize = Omit<ConvTranspose2d, 'x' | 'w' | 'bias'>;

export function convLayer(net: Net, name: string, x: Float64Array, size: ConvSize): Layer {
  const bias = net.state.get(`${name}.bias`);
  const weight = weightOf(net, name, size.K);
  const o = { ...size, x, w: weight.w, ...(bias && { bias }) };
  return {
    y: conv2d(o, net.r),
    back: (dy) => {
      const { dx, dw, dbias } = conv2dBackward(o, dy, net.r);
      weight.back(dw);
      if (bias) addGrad(net, `${name}.bias`, dbias);
      return dx;
    },
  };
}

function convTransposeLayer(
  net: Net,
  name: string,
  x: Float64Array,
  size: ConvTransposeSize,
): Layer {
  const bias = net.state.get(`${name}.bias`);
  const weight = weightOf(net, name, size.Cout, size.Cin);
  const o = { ...size, x, w: weight.w, ...(bias && { bias }) };
  return {
    y: convTranspose2d(o, net.r),
    back: (dy) => {
      const { dx, dw, dbias } = convTranspose2dBackward(o, dy, net.r);
      weight.back(dw);
      if (bias) addGrad(net, `${name}.bias`, dbias);
      return dx;
    },
  };
}

function batchNormLayer(net: Net, name: string, x: Float64Array, size: Planes): Layer {
  const o = {
    ...size,
    x,
    gamma: get(net, `${name}.weight`),
    beta: get(net, `${name}.bias`),
    runningMean: get(net, `${name}.running_mean`),
    runningVar: get(net, `${name}.running_var`),
    training: true,
  };
  const { y, runningMean, runningVar } = batchNorm(o, net.r);
  net.state.set(`${name}.running_mean`, runningMean!);
  net.state.set(`${name}.running_var`, runningVar!);
  const batches = get(net, `${name}.num_batches_tracked`)[0]!;
  net.state.set(`${name}.num_batches_tracked`, Float64Array.of(batches + 1));
  return {
    y,
    back: (dy) => {
      const { dx, dgamma, dbeta } = batchNormBackward(o, dy, net.r);
      addGrad(net, `${name}.weight`, dgamma);
      addGrad(net, `${name}.bias`, dbeta);
      return dx;
    },
  };
}

function activation(net: Net, f: PointwiseName, x: Float64Array, slope = 0): Layer {
  return {
    y: unary(f, { x, slope }, net.r),
    back: (dy) => unaryBackward(f, { x, slope }, dy, net.r).dx,
  };
}

function chain(first: Layer, then: (y: Float64Array) => Layer): Layer {
  const second = then(first.y);
  return { y: second.y, back: (dy) => first.back(second.back(dy)) };
}

interface Planes {
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
}

const pointConv = { R: 1, S: 1, stride: [1, 1], pad: [0, 0] } as const;

/** y = gamma·o + x, with the gradient of the scalar gamma. */
function gatedResidual(net: Net, name: string, x: Float64Array, o: Float64Array) {
  const { r } = net;
  const gamma = get(net, name)[0]!;
  return {
    y: x.map((a, i) => r(r(gamma * o[i]!) + a)),
    back: (dy: Float64Array) => {
      const dgamma = dy.reduce((s, d, i) => r(s + r(d * o[i]!)), 0);
      addGrad(net, name, Float64Array.of(dgamma));
      return dy.map((d) => r(gamma * d));
    },
  };
}

/** Σ of gradients that meet at one tensor, in the order given. */
function total(r: Round, first: Float64Array, ...rest: Float64Array[]): Float64Array {
  return rest.reduce((sum, g) => sum.map((a, i) => r(a + g[i]!)), first);
}

/** query_conv, key_conv C → C/8, value_conv C → C, gamma; names begin with `prefix`. */
export function selfAttention(
  net: Net,
  prefix: string,
  x: Float64Array,
  { N, C, H, W }: Planes,
  scale = 1,
): Layer {
  const size = { N, C, H, W, ...pointConv };
  const q = convLayer(net, `${prefix}query_conv`, x, { ...size, K: C / 8 });
  const k = convLayer(net, `${prefix}key_conv`, x, { ...size, K: C / 8 });
  const v = convLayer(net, `${prefix}value_conv`, x, { ...size, K: C });
  const positions = { B: N, Nq: H * W, Nk: H * W, DK: C / 8, DV: C };
  const o = { ...positions, q: q.y, k: k.y, v: v.y, scale, channelMajor: true };
  const gate = gatedResidual(net, `${prefix}gamma`, x, attention(o, net.r).o);
  return {
    y: gate.y,
    back: (dy) => {
      const { dq, dk, dv } = attentionBackward(o, gate.back(dy), net.r);
      return total(net.r, dy, q.back(dq), k.back(dk), v.back(dv));
    },
  };
}

/** theta, phi C → C/8, g C → C/2, o C/2 → C, gamma; phi and g max-pooled 2×2. */
export function paperAttention(
  net: Net,
  prefix: string,
  x: Float64Array,
  { N, C, H, W }: Planes,
): Layer {
  const { r } = net;
  const size = { N, C, H, W, ...pointConv };
  const pooled = (name: string, K: number): Layer =>
    chain(convLayer(net, `${prefix}${name}`, x, { ...size, K }), (y) => {
      const pool = { x: y, N, C: K, H, W, kernel: [2, 2] as const };
      return { y: maxPool2d(pool, r), back: (dy) => maxPool2dBackward(pool, dy, r).dx };
    });
  const q = convLayer(net, `${prefix}theta`, x, { ...size, K: C / 8 });
  const k = pooled('phi', C / 8);
  const v = pooled('g', C / 2);
  const positions = { B: N, Nq: H * W, Nk: (H * W) / 4, DK: C / 8, DV: C / 2 };
  const a = { ...positions, q: q.y, k: k.y, v: v.y, scale: 1, channelMajor: true };
  const out = convLayer(net, `${prefix}o`, attention(a, r).o, { ...size, C: C / 2, K: C });
  const gate = gatedResidual(net, `${prefix}gamma`, x, out.y);
  return {
    y: gate.y,
    back: (dy) => {
      const { dq, dk, dv } = attentionBackward(a, out.back(gate.back(dy)), r);
      return total(r, dy, q.back(dq), k.back(dk), v.back(dv));
    },
  };
}

const up = { R: 4, S: 4, stride: [2, 2], pad: [1, 1], outputPad: [0, 0] } as const;
const down = { R: 4, S: 4, stride: [2, 2], pad: [1, 1] } as const;

/** z [N, 16, 1, 1] → image [N, 3, 16, 16], every layer in training mode. */
export function smallGenerator(net: Net, z: Float64Array): Layer {
  const N = z.length / 16;
  const first = { N, Cin: 16, H: 1, W: 1, Cout: 32, R: 4, S: 4, outputPad: [0, 0] } as const;
  const a = convTransposeLayer(net, 'l1.0', z, { ...first, stride: [1, 1], pad: [0, 0] });
  const b = chain(a, (x) => batchNormLayer(net, 'l1.1', x, { N, C: 32, H: 4, W: 4 }));
  const c = chain(b, (x) => activation(net, 'relu', x));
  const d = chain(c, (x) =>
    convTransposeLayer(net, 'l2.0', x, { N, Cin: 32, H: 4, W: 4, Cout: 16, ...up }),
  );
  const e = chain(d, (x) => batchNormLayer(net, 'l2.1', x, { N, C: 16, H: 8, W: 8 }));
  const f = chain(e, (x) => activation(net, 'relu', x));
  const g = chain(f, (x) => selfAttention(net, 'attn1.', x, { N, C: 16, H: 8, W: 8 }));
  const h = chain(g, (x) =>
    convTransposeLayer(net, 'last.0', x, { N, Cin: 16, H: 8, W: 8, Cout: 3, ...up }),
  );
  return chain(h, (x) => activation(net, 'tanh', x));
}

/** image [N, 3, 16, 16] → score [N], every layer in training mode. */
export function smallDiscriminator(net: Net, image: Float64Array): Layer {
  const N = image.length / (3 * 16 * 16);
  const a = convLayer(net, 'l1.0', image, { N, C: 3, H: 16, W: 16, K: 16, ...down });
  const b = chain(a, (x) => activation(net, 'leakyRelu', x, 0.1));
  const c = chain(b, (x) => selfAttention(net, 'attn1.', x, { N, C: 16, H: 8, W: 8 }));
  const d = chain(c, (x) => convLayer(net, 'l2.0', x, { N, C: 16, H: 8, W: 8, K: 32, ...down }));
  const e = chain(d, (x) => activation(net, 'leakyRelu', x, 0.1));
  const last = { N, C: 32, H: 4, W: 4, K: 1, R: 4, S: 4, stride: [1, 1], pad: [0, 0] } as const;
  return chain(e, (x) => convLayer(net, 'last.0', x, last));
}

/**
 * Whether a tensor of the final state is driven by rounding alone. The gradient of a bias before batch norm and of
 * key_conv.bias is 0 in exact arithmetic; Adam (0, 0.9) divides what float32 leaves of it by its own size, so it
 * walks by up to lr a step in a direction that no two programs share. Nothing depends on it, but for the running means.
 */
export function noiseDriven(which: 'g' | 'd', key: string): boolean {
  const bias = key.endsWith('key_conv.bias');
  const beforeNorm = ['l1.0.bias', 'l2.0.bias', 'l1.1.running_mean', 'l2.1.running_mean'];
  return bias || (which === 'g' && beforeNorm.includes(key));
}

/**
 * How far two float32 runs of ten steps can be apart there. With β₁ = 0 and
 * v̂ ≥ (1 − β₂)·g² one step is at most lr/√(1 − 0.9) = lr·√10, and the two runs may go opposite ways.
 */
export const NOISE_BOUND = { g: 2 * 10 * 1e-4 * Math.sqrt(10), d: 2 * 10 * 4e-4 * Math.sqrt(10) };

type Moments = Map<string, { m: Float64Array; v: Float64Array }>;

/** Adam (0, 0.9) on every parameter that has a gradient; the gradients are cleared. */
function adamStep(net: Net, moments: Moments, lr: number, step: number): void {
  for (const [name, g] of net.grads) {
    const old = moments.get(name) ?? {
      m: new Float64Array(g.length),
      v: new Float64Array(g.length),
    };
    const o = { p: get(net, name), g, ...old, step, lr, beta1: 0, beta2: 0.9 };
    const { p, m, v } = adam(o, net.r);
    net.state.set(name, p);
    moments.set(name, { m, v });
  }
  net.grads.clear();
}

export interface SaganRun {
  readonly dLoss: Float64Array;
  readonly gLoss: Float64Array;
  /** Of the first step. */
  readonly fake: Float64Array;
  readonly dReal: Float64Array;
  readonly dFake: Float64Array;
  readonly dGrads: Map<string, Float64Array>;
  readonly gGrads: Map<string, Float64Array>;
  /** States after the last step. */
  readonly g: Map<string, Float64Array>;
  readonly d: Map<string, Float64Array>;
}

/**
 * The training of golden file sagan_step: hinge loss, Adam 4e-4 (D) and 1e-4 (G), one D and one G step at a time, each net
 * pass apart, in PyTorch's order. `golden` is the loaded file.
 */
export function runSmallSagan(
  golden: ReadonlyMap<string, { readonly data: Data }>,
  steps: number,
  r: Round,
): SaganRun {
  const data = (name: string) => Float64Array.from(golden.get(name)!.data);
  const start = (prefix: string) =>
    [...golden]
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, t]) => [key.slice(prefix.length), t.data] as const);
  const g = makeNet(start('g.start.'), r);
  const d = makeNet(start('d.start.'), r);
  const [real, zD, zG] = [data('real'), data('z_d'), data('z_g')];
  const part = (x: Float64Array, step: number) =>
    x.slice((step * x.length) / 10, ((step + 1) * x.length) / 10);
  const [dMoments, gMoments]: [Moments, Moments] = [new Map(), new Map()];
  const hinge = (score: Float64Array, sign: number) =>
    r(score.reduce((s, a) => r(s + Math.max(0, r(1 + r(sign * a)))), 0) / score.length);
  const hingeGrad = (score: Float64Array, sign: number) =>
    score.map((a) => (1 + sign * a > 0 ? r(sign / score.length) : 0));
  const run = { dLoss: new Float64Array(steps), gLoss: new Float64Array(steps) };
  let first: Omit<SaganRun, 'dLoss' | 'gLoss' | 'g' | 'd'> | undefined;
  for (let step = 0; step < steps; step++) {
    const onReal = smallDiscriminator(d, part(real, step));
    const fake = smallGenerator(g, part(zD, step)).y;
    const onFake = smallDiscriminator(d, fake);
    run.dLoss[step] = r(hinge(onReal.y, -1) + hinge(onFake.y, 1));
    onReal.back(hingeGrad(onReal.y, -1));
    onFake.back(hingeGrad(onFake.y, 1));
    const dGrads = new Map(d.grads);
    adamStep(d, dMoments, 4e-4, step + 1);

    const made = smallGenerator(g, part(zG, step));
    const judged = smallDiscriminator(d, made.y);
    run.gLoss[step] = -r(judged.y.reduce((s, a) => r(s + a), 0) / judged.y.length);
    made.back(judged.back(judged.y.map(() => r(-1 / judged.y.length))));
    d.grads.clear();
    const gGrads = new Map(g.grads);
    adamStep(g, gMoments, 1e-4, step + 1);
    first ??= { fake, dReal: onReal.y, dFake: onFake.y, dGrads, gGrads };
  }
  if (!first) throw new Error('runSmallSagan: no steps');
  return { ...run, ...first, g: g.state, d: d.state };
}
