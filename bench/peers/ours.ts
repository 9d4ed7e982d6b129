/** wgsagan itself: the engine's ops as they choose their rungs, captured and replayed. A training step is built from src/nn. */
import { to } from '../../src/autograd/cast.ts';
import { grad, Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { FloatType, Tensor } from '../../src/autograd/tensor.ts';
import { openGpu } from '../../src/gpu/device.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { Discriminator, Generator, saganPresets } from '../../src/models/sagan.ts';
import { LeakyReLU, ReLU, Tanh } from '../../src/nn/activation.ts';
import { SelfAttention } from '../../src/nn/attention.ts';
import { Conv2d, ConvTranspose2d } from '../../src/nn/conv.ts';
import { Layer, Sequential } from '../../src/nn/module.ts';
import { BatchNorm2d } from '../../src/nn/norm.ts';
import { conv2d, convTranspose2d } from '../../src/ops/conv.ts';
import { reshape } from '../../src/ops/layout.ts';
import { matmul } from '../../src/ops/matmul.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { Adam } from '../../src/optim/adam.ts';
import { GradScaler } from '../../src/optim/scaler.ts';
import { losses } from '../../src/train/losses.ts';
import { HostRng } from '../../src/util/philox.ts';
import { dim } from '../../src/util/shape.ts';
import type { PeerCase, Values, Work } from './cases.ts';
import { lossSteps } from './gan.ts';
import type { GanSpec, LayerSpec } from './gan.ts';
import { input, serve } from './worker.ts';
import type { Prepared, Task } from './worker.ts';

type Inputs = ReadonlyMap<string, Tensor>;

async function open({ driver, adapter, setting }: Task) {
  if (driver === 'null') throw new Error('the null driver computes nothing');
  const named = adapter === null ? {} : { adapterName: adapter };
  const gpu = await openGpu({ driver, vectorWidth: setting.width, ...named });
  const tape = new Tape(gpu);
  const { precision = 'f32' } = setting;
  return {
    version: 'this commit',
    prepare: (c: PeerCase, inputs: Values) =>
      c.work.op === 'gan'
        ? prepareGan(tape, { ...c.work, precision }, inputs)
        : prepareOp(tape, { ...c, precision }, inputs),
  };
}

async function replay(gpu: Gpu, step: () => readonly Tensor[]) {
  const program = await gpu.capture(() => step().map((t) => t.storage)).build();
  return async (times: number) => {
    for (let i = 0; i < times; i++) program.run();
    await gpu.sync();
  };
}

// ---- one operation --------------------------------------------------------------------------------------------------

/** With `precision` f16 every operand is stored as that, but for a block's parameters. */
async function prepareOp(
  tape: Tape,
  c: PeerCase & { readonly precision: FloatType },
  values: Values,
): Promise<Prepared> {
  const inputs = new Map(
    c.inputs.map(([name, shape]) => {
      const requiresGrad = c.backward && name !== 'dy';
      const options = { dtype: c.precision, label: name, requiresGrad };
      return [name, tensor(tape, input(values, name), shape, options)];
    }),
  );
  const block = c.work.op === 'attention' ? attentionBlock(tape, c, values) : undefined;
  const made = new Map<string, Tensor>();
  const run = await replay(tape.gpu, () => {
    const y = block?.forward(at(inputs, 'x')) ?? apply(c.work, inputs);
    made.set('y', y);
    if (c.backward) {
      const parameters = block?.namedParameters() ?? [['w', at(inputs, 'w')] as const];
      const wanted = new Map([['x', at(inputs, 'x')] as const, ...parameters]);
      const found = grad([y], [...wanted.values()], { gradOutputs: [at(inputs, 'dy')] });
      [...wanted.keys()].forEach((name, i) => made.set(`d.${name}`, found[i] ?? y));
    }
    return [...made.values()];
  });
  return { run, outputs: async () => (await run(1), readAll(made)) };
}

function apply(work: Work, inputs: Inputs): Tensor {
  switch (work.op) {
    case 'matmul':
      return matmul(at(inputs, 'a'), at(inputs, 'b'));
    case 'softmax':
      return softmax(at(inputs, 'x'));
    case 'conv2d':
      return conv2d(at(inputs, 'x'), at(inputs, 'w'), work);
    case 'convTranspose2d':
      return convTranspose2d(at(inputs, 'x'), at(inputs, 'w'), work);
    default:
      throw new Error(`${work.op} is no single op`);
  }
}

function attentionBlock(tape: Tape, c: PeerCase, values: Values): SelfAttention {
  const channels = dim(c.inputs.find(([name]) => name === 'x')?.[1] ?? [], 1);
  const block = new SelfAttention(tape, channels, { rng: new HostRng(0) });
  setState(block, values, '');
  return block;
}

// ---- one training step ----------------------------------------------------------------------------------------------

async function prepareGan(
  tape: Tape,
  work: Extract<Work, { op: 'gan' }> & { readonly precision: FloatType },
  values: Values,
): Promise<Prepared> {
  const { spec, preset, precision } = work;
  const rng = new HostRng(0);
  const init = preset === null ? undefined : { ...saganPresets[preset], init: 'default' as const };
  const generator = init ? new Generator(tape, init, rng) : new Net(tape, spec.generator, rng);
  const discriminator = init
    ? new Discriminator(tape, init, rng)
    : new Net(tape, spec.discriminator, rng);
  setState(generator, values, 'g.');
  setState(discriminator, values, 'd.');
  const optimizer = (net: Layer, lr: number) => {
    const { beta1, beta2, eps } = spec.adam;
    return new Adam(tape, [{ params: net.namedParameters(), lr, betas: [beta1, beta2], eps }]);
  };
  const optimizerG = optimizer(generator, spec.adam.lrG);
  const optimizerD = optimizer(discriminator, spec.adam.lrD);

  const scaler = () => new GradScaler(tape, { initScale: 1024 });
  const scalers = precision === 'f16' ? { G: scaler(), D: scaler() } : undefined;
  const descend = (optimizer: Adam, of: Tensor, scale: GradScaler | undefined) => {
    const seed = scale === undefined ? {} : { gradOutputs: [scale.scale] };
    optimizer.step(grad([of], optimizer.parameters(), seed), { scaler: scale });
    scale?.update();
  };
  const feeds = feedsOf(tape, spec);
  const loss = losses.hinge;
  const made = new Map<string, Tensor>();
  const run = await replay(tape.gpu, () => {
    const given = (t: Tensor) => to(t, precision);
    const score = (images: Tensor) => to(discriminator.forward(images), 'f32');
    const real = score(given(feeds.real));
    const fake = score(tape.noGrad(() => generator.forward(given(feeds.zD))));
    const lossD = loss.discriminator(real, fake);
    descend(optimizerD, lossD, scalers?.D);
    const lossG = loss.generator(score(generator.forward(given(feeds.zG))));
    descend(optimizerG, lossG, scalers?.G);
    made.set('lossD', lossD).set('lossG', lossG);
    return [lossD, lossG];
  });

  const outputs = async () => {
    const found = { lossD: new Float32Array(lossSteps), lossG: new Float32Array(lossSteps) };
    for (let i = 0; i < lossSteps; i++) {
      for (const [name, t] of Object.entries(feeds)) {
        t.set(input(values, name).subarray(i * t.size, (i + 1) * t.size));
      }
      await run(1);
      found.lossD[i] = await at(made, 'lossD').item();
      found.lossG[i] = await at(made, 'lossG').item();
    }
    return new Map(Object.entries(found));
  };
  return { run, outputs };
}

/** What changes from step to step, the size of one batch. */
function feedsOf(tape: Tape, { batch, channels, imageSize, latentSize }: GanSpec) {
  const blank = (shape: readonly number[]) =>
    tensor(tape, new Float32Array(shape.reduce((n, d) => n * d, 1)), shape);
  const noise = [batch, latentSize];
  const image = [batch, channels, imageSize, imageSize];
  return { real: blank(image), zD: blank(noise), zG: blank(noise) };
}

/** A net of src/nn's layers from a list, for an architecture that is no preset. */
class Net extends Layer {
  readonly #main: Sequential;
  /** A generator is given noise without axes for height and width. */
  readonly #latent: number | undefined;

  constructor(tape: Tape, layers: readonly LayerSpec[], rng: HostRng) {
    super(tape);
    this.#main = this.child(
      'main',
      new Sequential(
        tape,
        layers.map((layer) => layerOf(tape, layer, rng)),
      ),
    );
    const first = layers[0];
    this.#latent = first?.type === 'convTranspose' ? first.from : undefined;
  }

  override forward(x: Tensor): Tensor {
    return this.#main.forward(
      this.#latent === undefined ? x : reshape(x, [-1, this.#latent, 1, 1]),
    );
  }
}

function layerOf(tape: Tape, layer: LayerSpec, rng: HostRng): Layer {
  switch (layer.type) {
    case 'conv':
    case 'convTranspose': {
      const Made = layer.type === 'conv' ? Conv2d : ConvTranspose2d;
      const { kernel: kernelSize, stride, padding } = layer;
      return new Made(tape, layer.from, layer.to, { rng, kernelSize, stride, padding });
    }
    case 'batchNorm':
      return new BatchNorm2d(tape, layer.features);
    case 'attention':
      return new SelfAttention(tape, layer.channels, { rng });
    case 'leakyRelu':
      return new LeakyReLU(tape, layer.slope);
    case 'relu':
      return new ReLU(tape);
    case 'tanh':
      return new Tanh(tape);
  }
}

// ---- values ---------------------------------------------------------------------------------------------------------

/** Gives a module the case's values; every parameter must be among them. v is made anew from u at each forward pass. */
function setState(module: Layer, values: Values, prefix: string): void {
  for (const [name, parameter] of module.namedParameters())
    parameter.set(input(values, prefix + name));
  for (const [name, buffer] of module.namedBuffers()) {
    if (name.endsWith('weight_u')) buffer.set(input(values, prefix + name));
  }
}

async function readAll(tensors: Inputs): Promise<Map<string, Float32Array>> {
  const out = new Map<string, Float32Array>();
  for (const [name, t] of tensors) out.set(name, await t.read());
  return out;
}

function at(tensors: Inputs, name: string): Tensor {
  const found = tensors.get(name);
  if (found === undefined) throw new Error(`there is no tensor ${name}`);
  return found;
}

await serve(open);
