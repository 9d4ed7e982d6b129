/** TensorFlow.js on its WebGPU backend. It computes in NHWC; what is asked for in NCHW is turned outside the timing. */
import * as tf from '@tensorflow/tfjs';
// Registers the backend, once navigator.gpu is there.
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import type { PeerCase, Values, Work } from './cases.ts';
import { lossSteps, stateShapes } from './gan.ts';
import type { ConvSpec, GanSpec, LayerSpec } from './gan.ts';
import { input, openNavigatorGpu, serve } from './worker.ts';
import type { Prepared, Task } from './worker.ts';

type T4 = tf.Tensor4D;
type Tensors = Record<string, tf.Tensor>;

async function open(task: Task) {
  await openNavigatorGpu(task);
  // Imported late: the backend registers itself only where it finds navigator.gpu.
  await import('@tensorflow/tfjs-backend-webgpu');
  if (!(await tf.setBackend('webgpu'))) throw new Error('tfjs finds no WebGPU backend');
  await tf.ready();
  tf.env().set('DEBUG', false);
  return {
    version: tf.version_core,
    prepare: (c: PeerCase, values: Values) =>
      Promise.resolve(c.work.op === 'gan' ? prepareGan(c.work.spec, values) : prepareOp(c, values)),
  };
}

/** Submits what is recorded and waits for it: submitQueue alone would break a pass that is still open. */
async function sync(): Promise<void> {
  const backend = tf.backend() as WebGPUBackend;
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  backend.submitQueue();
  await backend.queue.onSubmittedWorkDone();
}

async function repeat(times: number, step: () => void): Promise<void> {
  for (let i = 0; i < times; i++) step();
  await sync();
}

// ---- one operation --------------------------------------------------------------------------------------------------

function prepareOp(c: PeerCase, values: Values): Prepared {
  const inputs: Tensors = {};
  for (const [name, shape] of c.inputs) {
    inputs[name] = fromNchw(c.work, name, tf.tensor(input(values, name), [...shape]));
  }
  const names = Object.keys(inputs).filter((name) => name !== 'dy');
  const f = (...args: tf.Tensor[]) =>
    apply(c.work, Object.fromEntries(names.map((name, i) => [name, args[i] as tf.Tensor])));
  const args = names.map((name) => at(inputs, name));
  const compute = (): Tensors => {
    if (!c.backward) return { y: f(...args) };
    const { value, grads } = valueAndGrads(f, args, at(inputs, 'dy'));
    return {
      y: value,
      ...Object.fromEntries(names.map((name, i) => [`d.${name}`, grads[i] as tf.Tensor])),
    };
  };
  return {
    run: (times) => repeat(times, () => tf.dispose(compute())),
    outputs: async () => {
      const found = new Map<string, Float32Array>();
      for (const [name, value] of Object.entries(compute())) {
        const plain = toNchw(c.work, name, value);
        found.set(name, (await plain.data()) as Float32Array);
      }
      return found;
    },
  };
}

/** The forward value and the gradients, which tf.grads alone would throw away. */
function valueAndGrads(f: (...args: tf.Tensor[]) => tf.Tensor, args: tf.Tensor[], dy: tf.Tensor) {
  return tf.tidy(() => tf.engine().gradients(() => f(...args), args, dy));
}

function apply(work: Work, t: Tensors): tf.Tensor {
  switch (work.op) {
    case 'matmul':
      return tf.matMul(at(t, 'a'), at(t, 'b'));
    case 'softmax':
      return tf.softmax(at(t, 'x'));
    case 'conv2d':
      return tf.conv2d(at(t, 'x') as T4, at(t, 'w') as T4, work.stride, work.padding);
    case 'convTranspose2d':
      return convTranspose(at(t, 'x') as T4, at(t, 'w') as T4, work);
    case 'attention':
      return tf.tidy(() =>
        attention(at(t, 'x') as T4, at(t, 'gamma'), ([conv, key]) => at(t, `${conv}_conv.${key}`)),
      );
    case 'gan':
      throw new Error('a training step is no single op');
  }
}

function convTranspose(x: T4, w: T4, { stride, padding }: { stride: number; padding: number }): T4 {
  const [n, h, width] = x.shape;
  const [kernel = 1, , channels = 1] = w.shape;
  const out = (side: number) => (side - 1) * stride - 2 * padding + kernel;
  return tf.conv2dTranspose(x, w, [n, out(h), out(width), channels], stride, padding);
}

type Part = readonly ['query' | 'key' | 'value', 'weight' | 'bias'];

function attention(x: T4, gamma: tf.Tensor, part: (which: Part) => tf.Tensor): T4 {
  const [n, h, w] = x.shape;
  const sequence = (name: Part[0]) => {
    const y = tf.add(tf.conv2d(x, part([name, 'weight']) as T4, 1, 0), part([name, 'bias']));
    return tf.reshape(y, [n, h * w, -1]);
  };
  const [q, k, v] = [sequence('query'), sequence('key'), sequence('value')];
  const o = tf.matMul(tf.softmax(tf.matMul(q, k, false, true)), v);
  return tf.add(tf.mul(tf.reshape(o, x.shape), gamma), x);
}

// ---- layout ---------------------------------------------------------------------------------------------------------

/** Images NCHW → NHWC; filters [K, C, R, S] → [R, S, C, K]. A transposed filter [Cin, Cout, R, S] → [R, S, Cout, Cin]. */
const toNhwc = [0, 2, 3, 1];
const toFilter = [2, 3, 1, 0];
const inverse = (order: readonly number[]) => order.map((_, i) => order.indexOf(i));

function orderOf(work: Work, name: string): readonly number[] | undefined {
  if (work.op === 'matmul' || work.op === 'softmax') return undefined;
  if (/^(d\.)?(x|y|dy)$/.test(name)) return toNhwc;
  return /(^|\.)w$|weight$/.test(name) ? toFilter : undefined;
}

function fromNchw(work: Work, name: string, t: tf.Tensor): tf.Tensor {
  const order = orderOf(work, name);
  return order === undefined ? t : tf.transpose(t, [...order]);
}

function toNchw(work: Work, name: string, t: tf.Tensor): tf.Tensor {
  const order = orderOf(work, name);
  return order === undefined ? t : tf.transpose(t, inverse(order));
}

// ---- one training step ----------------------------------------------------------------------------------------------

/** Parameters as variables, u of each power iteration as variables that no optimiser moves. */
interface Net {
  readonly layers: readonly LayerSpec[];
  readonly parameters: ReadonlyMap<string, tf.Variable>;
  readonly state: ReadonlyMap<string, tf.Variable>;
}

function netOf(
  layers: readonly LayerSpec[],
  values: Values,
  prefix: string,
  spec: readonly (readonly [string, readonly number[]])[],
): Net {
  const parameters = new Map<string, tf.Variable>();
  const state = new Map<string, tf.Variable>();
  for (const [name, shape] of spec) {
    const raw = tf.tensor(input(values, prefix + name), [...shape]);
    const value = shape.length === 4 ? tf.transpose(raw, [...toFilter]) : raw;
    const isState = name.endsWith('weight_u');
    (isState ? state : parameters).set(name, tf.variable(value, !isState));
  }
  return { layers, parameters, state };
}

function forward(net: Net, x: tf.Tensor): T4 {
  let y = x as T4;
  for (const layer of net.layers) y = applyLayer(net, layer, y);
  return y;
}

function applyLayer(net: Net, layer: LayerSpec, x: T4): T4 {
  const p = (key: string) => variableOf(net.parameters, key);
  switch (layer.type) {
    case 'conv':
      return tf.add(
        tf.conv2d(x, weight(net, layer, false), layer.stride, layer.padding),
        p(`${layer.name}.bias`),
      );
    case 'convTranspose':
      return tf.add(convTranspose(x, weight(net, layer, true), layer), p(`${layer.name}.bias`));
    case 'batchNorm': {
      const { mean, variance } = tf.moments(x, [0, 1, 2]);
      const scale = tf.mul(tf.rsqrt(tf.add(variance, 1e-5)), p(`${layer.name}.weight`));
      return tf.add(tf.mul(tf.sub(x, mean), scale), p(`${layer.name}.bias`));
    }
    case 'attention':
      return attention(x, p(`${layer.name}.gamma`), ([conv, key]) => {
        const name = `${layer.name}.${conv}_conv`;
        return key === 'bias'
          ? p(`${name}.bias`)
          : weight(net, { name, spectral: layer.spectral }, false);
      });
    case 'leakyRelu':
      return tf.leakyRelu(x, layer.slope);
    case 'relu':
      return tf.relu(x);
    case 'tanh':
      return tf.tanh(x);
  }
}

/** The filter, divided by its spectral norm where the layer has one: one power iteration a pass, u and v held still. */
function weight(
  net: Net,
  { name, spectral }: Pick<ConvSpec, 'name' | 'spectral'>,
  transposed: boolean,
): T4 {
  if (!spectral) return variableOf(net.parameters, `${name}.weight`) as unknown as T4;
  const w = variableOf(net.parameters, `${name}.weight_orig`) as unknown as T4;
  const u = variableOf(net.state, `${name}.weight_u`);
  // [R, S, C, K] with K rows, or [R, S, Cout, Cin] with Cout: rows last.
  const rowsLast = transposed ? tf.transpose(w, [0, 1, 3, 2]) : w;
  const matrix = tf.reshape(rowsLast, [-1, u.shape[0] ?? 1]);
  const norm = tf.customGrad((...args) => {
    const [m, save] = args as [tf.Tensor2D, tf.GradSaveFunc];
    const v = unit(tf.matMul(m, tf.reshape(u, [-1, 1])));
    const next = unit(tf.matMul(m, v, true));
    u.assign(tf.reshape(next, [-1]));
    const outer = tf.matMul(v, next, false, true);
    save([outer]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]) => tf.mul(dy, saved[0] as tf.Tensor);
    return { value: tf.sum(tf.mul(m, outer)), gradFunc };
  });
  return tf.div(w, norm(matrix));
}

function unit(x: tf.Tensor): tf.Tensor2D {
  return tf.div(x, tf.maximum(tf.sqrt(tf.sum(tf.square(x))), 1e-12));
}

function prepareGan(spec: GanSpec, values: Values): Prepared {
  const G = netOf(spec.generator, values, 'g.', stateShapes(spec.generator));
  const D = netOf(spec.discriminator, values, 'd.', stateShapes(spec.discriminator));
  const { lrG, lrD, beta1, beta2, eps } = spec.adam;
  const optimizerG = tf.train.adam(lrG, beta1, beta2, eps);
  const optimizerD = tf.train.adam(lrD, beta1, beta2, eps);
  const { batch, imageSize, channels, latentSize } = spec;
  const real = tf.transpose(
    tf.tensor(input(values, 'real'), [lossSteps, batch, channels, imageSize, imageSize]),
    [0, 1, 3, 4, 2],
  );
  const noise = (name: string) =>
    tf.tensor(input(values, name), [lossSteps, batch, 1, 1, latentSize]);
  const split = (t: tf.Tensor) => tf.unstack(t).map((x) => tf.keep(x));
  const feeds = { real: split(real), zD: split(noise('zD')), zG: split(noise('zG')) };

  const step = (i: number) =>
    tf.tidy(() => {
      const images = feeds.real[i] as tf.Tensor;
      const made = forward(G, feeds.zD[i] as tf.Tensor);
      const lossD = update(optimizerD, D, () => {
        const onReal = tf.mean(tf.relu(tf.sub(1, forward(D, images))));
        return tf.add(onReal, tf.mean(tf.relu(tf.add(1, forward(D, made)))));
      });
      const lossG = update(optimizerG, G, () =>
        tf.neg(tf.mean(forward(D, forward(G, feeds.zG[i] as tf.Tensor)))),
      );
      return { lossD, lossG };
    });
  return {
    run: (times) => repeat(times, () => tf.dispose(step(0))),
    outputs: async () => {
      const found = { lossD: new Float32Array(lossSteps), lossG: new Float32Array(lossSteps) };
      for (let i = 0; i < lossSteps; i++) {
        const { lossD, lossG } = step(i);
        found.lossD[i] = (await lossD.data())[0] ?? NaN;
        found.lossG[i] = (await lossG.data())[0] ?? NaN;
      }
      return new Map(Object.entries(found));
    },
  };
}

function update(optimizer: tf.Optimizer, net: Net, loss: () => tf.Tensor): tf.Scalar {
  const variables = [...net.parameters.values()];
  const { value, grads } = tf.variableGrads(loss as () => tf.Scalar, variables);
  optimizer.applyGradients(grads);
  return value;
}

function at(tensors: Tensors, name: string): tf.Tensor {
  const found = tensors[name];
  if (found === undefined) throw new Error(`there is no tensor ${name}`);
  return found;
}

function variableOf(variables: ReadonlyMap<string, tf.Variable>, name: string): tf.Variable {
  const found = variables.get(name);
  if (found === undefined) throw new Error(`the net has no ${name}`);
  return found;
}

await serve(open);
