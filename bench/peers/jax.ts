/**
 * jax-js on its WebGPU backend, everything under jit. An array is consumed by whoever takes it: `.ref` is the copy that
 * stays.
 */
import {
  blockUntilReady,
  defaultDevice,
  init,
  jit,
  lax,
  nn,
  numpy as np,
  tree,
  vjp,
  valueAndGrad,
} from '@jax-js/jax';
import type { Array as JaxArray } from '@jax-js/jax';
import { readFileSync } from 'node:fs';
import type { PeerCase, Values, Work } from './cases.ts';
import { pathOf } from './child.ts';
import { lossSteps, stateShapes } from './gan.ts';
import type { ConvSpec, GanSpec, LayerSpec } from './gan.ts';
import { input, openNavigatorGpu, serve } from './worker.ts';
import type { Prepared, Task } from './worker.ts';

type Arrays = Record<string, JaxArray>;

async function open(task: Task) {
  await openNavigatorGpu(task);
  if (!(await init('webgpu')).includes('webgpu')) throw new Error('jax-js finds no WebGPU');
  defaultDevice('webgpu');
  await mendDivision();
  const manifest = readFileSync(pathOf('node_modules/@jax-js/jax/package.json'), 'utf8');
  return {
    version: (JSON.parse(manifest) as { version: string }).version,
    prepare: (c: PeerCase, values: Values) =>
      Promise.resolve(c.work.op === 'gan' ? prepareGan(c.work.spec, values) : prepareOp(c, values)),
  };
}

/** As much of jax-js's class of index expressions as is needed here. An Add has its constant last once it is simplified. */
interface Index {
  readonly op: string;
  readonly dtype: unknown;
  readonly src: readonly Index[];
  /** Of a Const, its value. */
  readonly arg: unknown;
  readonly min: number;
  simplify(cache?: Map<unknown, Index>): Index;
}

interface IndexClass {
  readonly prototype: Index;
  const(dtype: unknown, value: number): Index;
  add(a: Index, b: Index): Index;
  idiv(a: Index, b: Index): Index;
  mod(a: Index, b: Index): Index;
}

/**
 * jax-js 0.1.25 simplifies (x - 18) / 16 to (x - 2) / 16 - 2: its quotient of the constant is floored, its remainder is
 * truncated. Convolutions with a dilated side (transposed ones, gradients of strided ones) then read a wrong row wherever
 * its tuning leaves such an index: in the small layers of a net. Here a negative constant is made positive by whole
 * divisors first, (x + 14) / 16 - 2, and the rest is left to jax-js: its kernels do the same work as before.
 */
async function mendDivision(): Promise<void> {
  const index = import.meta.resolve('@jax-js/jax');
  const chunk = /\.\/backend-[\w-]+\.js/.exec(readFileSync(new URL(index), 'utf8'))?.[0] ?? index;
  const exported = (await import(new URL(chunk, index).href)) as Record<string, unknown>;
  const found = Object.values(exported).find((v) => typeof v === 'function' && v.name === 'AluExp');
  if (found === undefined) throw new Error('this jax-js keeps its index expressions elsewhere');
  const expression = found as unknown as IndexClass;
  const { prototype } = expression;
  const simplify = Reflect.get(prototype, 'simplify') as Index['simplify'];
  prototype.simplify = function (this: Index, cache = new Map<unknown, Index>()) {
    return simplify.call(withoutNegative(expression, this, cache) ?? this, cache);
  };
}

/** The same quotient or remainder of x + c with c at least 0; undefined where c is none that jax-js gets wrong. */
function withoutNegative(
  { const: constant, add, idiv, mod }: IndexClass,
  { op, dtype, src }: Index,
  cache: Map<unknown, Index>,
): Index | undefined {
  if ((op !== 'Idiv' && op !== 'Mod') || dtype !== 'int32') return undefined;
  const by = src[1]?.op === 'Const' ? Number(src[1].arg) : 0;
  const sum = by > 0 ? src[0]?.simplify(cache) : undefined;
  const [x, c] = sum?.op === 'Add' && sum.min >= 0 ? sum.src : [];
  const value = c?.op === 'Const' ? Number(c.arg) : 0;
  if (x === undefined || value >= 0) return undefined;
  const times = Math.ceil(-value / by);
  const positive = add(x, constant(dtype, value + times * by));
  const divisor = constant(dtype, by);
  return op === 'Mod'
    ? mod(positive, divisor)
    : add(idiv(positive, divisor), constant(dtype, -times));
}

// ---- one operation --------------------------------------------------------------------------------------------------

function prepareOp(c: PeerCase, values: Values): Prepared {
  const inputs: Arrays = {};
  for (const [name, shape] of c.inputs) inputs[name] = array(input(values, name), shape);
  const { dy, ...wanted } = inputs;
  const compute = jit((arrays: Arrays, seed: JaxArray): Arrays => {
    if (!c.backward) return { y: apply(c.work, arrays) };
    const [y, pull] = vjp((given: Arrays) => apply(c.work, given), [arrays]);
    const [gradients] = pull(seed) as unknown as [Arrays];
    const named = Object.entries(gradients).map(([name, g]) => [`d.${name}`, g] as const);
    return { y, ...Object.fromEntries(named) };
  });
  const seed = dy ?? np.array([0]);
  const once = () => compute(tree.ref(wanted), seed.ref);
  return {
    run: (times) => repeat(times, once),
    outputs: async () => readAll(once()),
  };
}

/**
 * Waits for so many results together. None is let go before: what jax-js has not begun when its result is disposed of, it
 * leaves undone.
 */
async function repeat(times: number, once: () => Arrays): Promise<void> {
  const results = Array.from({ length: times }, once);
  await blockUntilReady(results);
  tree.dispose(results);
}

function apply(work: Work, t: Arrays): JaxArray {
  const take = (name: string) => at(t, name).ref;
  switch (work.op) {
    case 'matmul':
      return np.matmul(take('a'), take('b'));
    case 'softmax':
      return nn.softmax(take('x'), -1);
    case 'conv2d':
      return conv(take('x'), take('w'), work);
    case 'convTranspose2d':
      return convTranspose(take('x'), take('w'), work);
    case 'attention':
      return attention(take('x'), take('gamma'), (which, key) => take(`${which}_conv.${key}`));
    case 'gan':
      throw new Error('a training step is no single op');
  }
}

interface Window {
  readonly stride: number;
  readonly padding: number;
}

function conv(x: JaxArray, w: JaxArray, { stride, padding }: Window): JaxArray {
  const pad: [number, number] = [padding, padding];
  return lax.convGeneralDilated(x, w, [stride, stride], [pad, pad]);
}

function convTranspose(x: JaxArray, w: JaxArray, { stride, padding }: Window): JaxArray {
  const pad: [number, number] = [padding, padding];
  return lax.convTranspose(x, w, [stride, stride], [pad, pad], { transposeKernel: true });
}

/** A number a channel, along [N, C, H, W]. */
function perChannel(v: JaxArray): JaxArray {
  return np.reshape(v, [1, -1, 1, 1]);
}

type PartOf = (which: 'query' | 'key' | 'value', key: 'weight' | 'bias') => JaxArray;

function attention(x: JaxArray, gamma: JaxArray, part: PartOf): JaxArray {
  const [n = 1, , h = 1, w = 1] = x.shape;
  const sequence = (which: 'query' | 'key' | 'value') => {
    const y = conv(x.ref, part(which, 'weight'), { stride: 1, padding: 0 });
    return np.reshape(y.add(perChannel(part(which, 'bias'))), [n, -1, h * w]);
  };
  const [q, k, v] = [sequence('query'), sequence('key'), sequence('value')];
  const weights = nn.softmax(np.matmul(np.matrixTranspose(q), k), -1);
  const o = np.matmul(v, np.matrixTranspose(weights));
  return np.reshape(o, x.shape).mul(gamma).add(x);
}

// ---- one training step ----------------------------------------------------------------------------------------------

/** Parameters, moments of Adam, and u of each power iteration, all by name. */
interface NetState {
  readonly p: Arrays;
  readonly m: Arrays;
  readonly v: Arrays;
  readonly u: Arrays;
}

function stateOf(layers: readonly LayerSpec[], values: Values, prefix: string): NetState {
  const net = { p: {} as Arrays, m: {} as Arrays, v: {} as Arrays, u: {} as Arrays };
  for (const [name, shape] of stateShapes(layers)) {
    const value = array(input(values, prefix + name), shape);
    if (name.endsWith('weight_u')) net.u[name] = value;
    else {
      net.p[name] = value;
      net.m[name] = np.zeros([...shape]);
      net.v[name] = np.zeros([...shape]);
    }
  }
  return net;
}

/** One forward pass: the result, and u of the layers that it moved. */
function forward(
  layers: readonly LayerSpec[],
  p: Arrays,
  u: Arrays,
  x: JaxArray,
): [JaxArray, Arrays] {
  const moved = { ...u };
  const take = (name: string) => at(p, name).ref;
  const weight = ({ name, spectral }: Pick<ConvSpec, 'name' | 'spectral'>, transposed = false) => {
    if (!spectral) return take(`${name}.weight`);
    const w = take(`${name}.weight_orig`);
    const key = `${name}.weight_u`;
    const rows = at(moved, key).shape[0] ?? 1;
    const rowsFirst = transposed ? np.transpose(w.ref, [1, 0, 2, 3]) : w.ref;
    const matrix = np.reshape(rowsFirst, [rows, -1]);
    const still = lax.stopGradient(matrix.ref);
    const v = unit(
      np.matmul(np.matrixTranspose(still.ref), np.reshape(at(moved, key).ref, [rows, 1])),
    );
    const next = unit(np.matmul(still, v.ref));
    const sigma = np.sum(np.matmul(matrix, v).mul(next.ref));
    moved[key] = np.reshape(next, [rows]);
    return w.div(sigma);
  };
  let y = x;
  for (const layer of layers) {
    switch (layer.type) {
      case 'conv':
        y = conv(y, weight(layer), layer).add(perChannel(take(`${layer.name}.bias`)));
        break;
      case 'convTranspose':
        y = convTranspose(y, weight(layer, true), layer).add(
          perChannel(take(`${layer.name}.bias`)),
        );
        break;
      case 'batchNorm': {
        const axes = [0, 2, 3];
        const centred = y.ref.sub(np.mean(y, axes, { keepdims: true }));
        const variance = np.mean(np.square(centred.ref), axes, { keepdims: true });
        const scaled = centred.div(np.sqrt(variance.add(1e-5)));
        y = scaled
          .mul(perChannel(take(`${layer.name}.weight`)))
          .add(perChannel(take(`${layer.name}.bias`)));
        break;
      }
      case 'attention':
        y = attention(y, take(`${layer.name}.gamma`), (which, key) => {
          const name = `${layer.name}.${which}_conv`;
          return key === 'bias' ? take(`${name}.bias`) : weight({ name, spectral: layer.spectral });
        });
        break;
      case 'leakyRelu':
        y = nn.leakyRelu(y, layer.slope);
        break;
      case 'relu':
        y = nn.relu(y);
        break;
      case 'tanh':
        y = np.tanh(y);
        break;
    }
  }
  return [y, moved];
}

function unit(x: JaxArray): JaxArray {
  return x.ref.div(np.maximum(np.sqrt(np.sum(np.square(x))), 1e-12));
}

function prepareGan(spec: GanSpec, values: Values): Prepared {
  const { batch, imageSize, channels, latentSize } = spec;
  let G = stateOf(spec.generator, values, 'g.');
  let D = stateOf(spec.discriminator, values, 'd.');
  // Adam's powers of beta, on the device so that they are no constants of the jit.
  let power = np.array([1, 1]);
  // jax-js fuses a constant cotangent wrongly into a convolution's gradient: the loss is weighted by an array of ones.
  const one = np.array([1]);
  const split = (name: string, shape: number[]) => {
    const all = input(values, name);
    const size = all.length / lossSteps;
    return Array.from({ length: lossSteps }, (_, i) =>
      array(all.subarray(i * size, (i + 1) * size), shape),
    );
  };
  const real = split('real', [batch, channels, imageSize, imageSize]);
  const [zD, zG] = [split('zD', [batch, latentSize, 1, 1]), split('zG', [batch, latentSize, 1, 1])];

  const generate = (p: Arrays, u: Arrays, z: JaxArray) => forward(spec.generator, p, u, z);
  const score = (p: Arrays, u: Arrays, x: JaxArray) => forward(spec.discriminator, p, u, x);
  type Forward = Pick<NetState, 'p' | 'u'>;
  const advance = jit((pw: JaxArray) => pw.mul(np.array([spec.adam.beta1, spec.adam.beta2])));
  const stepD = jit((g: Forward, d: NetState, pw: JaxArray, images: JaxArray, z: JaxArray) => {
    const [made, gu] = generate(g.p, g.u, z);
    const hinge = (x: JaxArray) => np.mean(nn.relu(x.add(1)));
    const lossOf = (p: Arrays): [JaxArray, Arrays] => {
      const [onReal, u1] = score(p, d.u, images);
      const [onMade, u2] = score(p, u1, lax.stopGradient(made.ref));
      return [hinge(onReal.neg()).add(hinge(onMade)), u2];
    };
    const [[loss, u], gradients] = valueAndGrad(lossOf, { hasAux: true })(tree.ref(d.p)) as [
      [JaxArray, Arrays],
      Arrays,
    ];
    return { d: { ...adam(spec, d, gradients, pw, spec.adam.lrD), u }, gu, loss };
  });
  const stepG = jit((g: NetState, d: Forward, pw: JaxArray, z: JaxArray, by: JaxArray) => {
    const lossOf = (p: Arrays): [JaxArray, [Arrays, Arrays]] => {
      const [fake, gu] = generate(p, g.u, z);
      const [scores, du] = score(d.p, d.u, fake);
      return [np.mean(scores.mul(by)).neg(), [gu, du]];
    };
    const [[loss, [u, du]], gradients] = valueAndGrad(lossOf, { hasAux: true })(tree.ref(g.p)) as [
      [JaxArray, [Arrays, Arrays]],
      Arrays,
    ];
    return { g: { ...adam(spec, g, gradients, pw, spec.adam.lrG), u }, du, loss };
  });
  const once = (i: number) => {
    power = advance(power);
    const first = stepD({ p: tree.ref(G.p), u: G.u }, D, power.ref, at(real, i).ref, at(zD, i).ref);
    D = first.d;
    const second = stepG(
      { ...G, u: first.gu },
      { p: tree.ref(D.p), u: D.u },
      power.ref,
      at(zG, i).ref,
      one.ref,
    );
    [G, D] = [second.g, { ...D, u: second.du }];
    return { lossD: first.loss, lossG: second.loss };
  };
  return {
    run: (times) => repeat(times, () => once(0)),
    outputs: async () => {
      const found = { lossD: new Float32Array(lossSteps), lossG: new Float32Array(lossSteps) };
      for (let i = 0; i < lossSteps; i++) {
        const { lossD, lossG } = once(i);
        found.lossD[i] = (await lossD.data())[0] ?? NaN;
        found.lossG[i] = (await lossG.data())[0] ?? NaN;
      }
      return new Map(Object.entries(found));
    },
  };
}

function adam(
  { adam: o }: GanSpec,
  net: NetState,
  gradients: Arrays,
  powers: JaxArray,
  lr: number,
) {
  const out = { p: {} as Arrays, m: {} as Arrays, v: {} as Arrays };
  const bias = (i: number) => np.array(1).sub(powers.ref.slice(i));
  for (const [name, g] of Object.entries(gradients)) {
    const m = at(net.m, name)
      .ref.mul(o.beta1)
      .add(g.ref.mul(1 - o.beta1));
    const v = at(net.v, name)
      .ref.mul(o.beta2)
      .add(np.square(g).mul(1 - o.beta2));
    const by = np.sqrt(v.ref.div(bias(1))).add(o.eps);
    out.p[name] = at(net.p, name).ref.sub(m.ref.div(bias(0)).div(by).mul(lr));
    [out.m[name], out.v[name]] = [m, v];
  }
  return out;
}

// ---- values ---------------------------------------------------------------------------------------------------------

function array(data: Float32Array, shape: readonly number[]): JaxArray {
  return np.array(data.slice(), { shape: [...shape] });
}

async function readAll(arrays: Arrays): Promise<Map<string, Float32Array>> {
  const out = new Map<string, Float32Array>();
  for (const [name, value] of Object.entries(arrays))
    out.set(name, (await value.data()) as Float32Array);
  return out;
}

function at<T>(from: Readonly<Record<string, T>> | readonly T[], key: string | number): T {
  const found = (from as Readonly<Record<string, T>>)[key];
  if (found === undefined) throw new Error(`there is no array ${key}`);
  return found;
}

await serve(open);
