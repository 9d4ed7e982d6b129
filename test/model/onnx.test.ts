// What the tape records, written as ONNX: every rule, every attention block, classes, and what cannot be written.
import { describe, expect, test } from 'vitest';
import { at, defineOp, only } from '../../src/autograd/op.ts';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { encodeModel } from '../../src/io/onnx.ts';
import type { Net } from '../../src/models/gan.ts';
import { attentionKinds } from '../../src/nn/attention-kinds.ts';
import { Conv2d } from '../../src/nn/conv.ts';
import { Embedding } from '../../src/nn/embedding.ts';
import { Linear } from '../../src/nn/linear.ts';
import { Layer } from '../../src/nn/module.ts';
import { spectralNorm } from '../../src/nn/weighted.ts';
import * as layout from '../../src/ops/layout.ts';
import { matmul } from '../../src/ops/matmul.ts';
import * as pointwise from '../../src/ops/pointwise.ts';
import { amax, mean, sum } from '../../src/ops/reduce.ts';
import * as resample from '../../src/ops/resample.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { fill } from '../../src/kernels/pointwise.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { onnxOf } from '../../src/train/export/onnx.ts';
import { createGan } from '../../src/train/gan.ts';
import { createLearner } from '../../src/train/learners.ts';
import { latents } from '../../src/train/latents.ts';
import { HostRng } from '../../src/util/philox.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { runOnnx } from '../support/onnx.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const rng = new HostRng(5);
const [count, latentSize] = [5, 6];
const z = latents(2, count, latentSize);
const classes = 3;
const labels = Uint32Array.from({ length: count }, (_u, i) => (i * i) % classes);

/** A net of one function. */
class Of extends Layer {
  readonly #body: (x: Tensor, labels?: Tensor) => Tensor;

  constructor(body: (x: Tensor, labels?: Tensor) => Tensor, children: Record<string, Layer> = {}) {
    super(tape);
    this.#body = body;
    for (const [name, layer] of Object.entries(children)) this.child(name, layer);
  }

  override forward(x: Tensor, of?: Tensor): Tensor {
    return this.#body(x, of);
  }
}

/** The net in ONNX Runtime against the net here, in a batch that neither pass of the export had. */
async function compare(net: Net, told = 0): Promise<void> {
  const model = encodeModel(await onnxOf(net, { latentSize, classes: told }));
  const classesOf = { labels: [BigInt64Array.from(labels, BigInt), [count]] } as const;
  const theirs = await runOnnx(model, {
    z: [z, [count, latentSize]],
    ...(told === 0 ? {} : classesOf),
  });
  const of = told === 0 ? undefined : tensor(tape, labels, [count]);
  const ours = net.eval().forward(tensor(tape, z, [count, latentSize]), of);
  expect(theirs.shape).toEqual(ours.shape);
  const values = await ours.read();
  expect(new Set(values).size).toBeGreaterThan(1);
  expectClose(theirs.data, values, { abs: 1e-4 }, 'images');
}

/** Above 0, for the functions that ask for it. */
const positive = (x: Tensor) => pointwise.affine(pointwise.square(x), 0.5, 0.25);
const planes = (x: Tensor) =>
  layout.expand(layout.reshape(x, [-1, 3, 2, 1]), [x.shape[0]!, 3, 2, 5]);
const half = (x: Tensor, first: number) => layout.slice(x, 1, first, 3);
const column = (x: Tensor) => layout.reshape(x, [-1, 6, 1]);

/** Each op, or a few that need each other, from z. */
const bodies: Record<string, (x: Tensor) => Tensor> = {
  'of one input': (x) =>
    [
      pointwise.neg(x),
      pointwise.abs(x),
      pointwise.sqrt(positive(x)),
      pointwise.rsqrt(positive(x)),
      pointwise.reciprocal(positive(x)),
      pointwise.exp(x),
      pointwise.log(positive(x)),
      pointwise.relu(x),
      pointwise.leakyRelu(x, 0.2),
      pointwise.tanh(x),
      pointwise.sigmoid(x),
      pointwise.softplus(x),
    ].reduce((a, b, i) => pointwise.add(a, pointwise.mul(b, i + 1))),
  'of two inputs': (x) => {
    const [a, b] = [half(x, 0), half(x, 3)];
    const { add, div, maximum, minimum, mul, sub } = pointwise;
    const joined = layout.concat([add(a, b), sub(a, b), mul(a, b), div(a, positive(b))], 1);
    return layout.concat([joined, maximum(a, b), minimum(a, mean(b, [1], { keepdim: true }))], 1);
  },
  'sums, products and softmax': (x) => {
    const outer = matmul(column(x), column(x), { transB: true, alpha: 0.5 });
    const inner = matmul(softmax(outer), outer, { transA: true });
    const rows = layout.permute(pointwise.add(outer, inner), [0, 2, 1]);
    return pointwise.add(sum(rows, [2]), amax(outer, [1]));
  },
  pools: (x) => {
    const wide = resample.upsampleNearest2x(planes(x));
    const pooled = resample.maxPool2d(wide, 3, { stride: 2, padding: 1 });
    const means = [true, false].map((countIncludePad) =>
      resample.avgPool2d(wide, 3, { stride: 2, padding: 1, countIncludePad }),
    );
    return layout.concat([pooled, ...means], 1);
  },
  'sizes bilinearly': (x) => resample.resizeBilinear(resample.upsampleNearest2x(planes(x)), [7, 9]),
  'sizes from corner to corner': (x) =>
    resample.resizeBilinear(planes(x), [5, 3], { alignCorners: true }),
};
describe('ONNX Runtime computes what the engine does', () => {
  test.each(Object.entries(bodies))('%s', async (_name, body) => {
    await compare(new Of(body));
  });

  const tellers = ['sagan-resnet-32', 'vae-32-tiny'];
  test.each(tellers)('a generator of %s, told classes in its attention too', async (preset) => {
    const small = { imageSize: 16, width: 4, latentSize, attentionAt: [8], batch: 2 };
    const told = { conditional: true, classes, attention: 'class' };
    const config = resolveConfig({ data: 'none', preset, ...small, ...told });
    const { generator } = createLearner(tape, config);
    for (const [name, value] of generator.namedParameters()) {
      if (name.endsWith('gamma')) value.set(Float32Array.of(0.7));
      if (name.endsWith('embed.weight')) value.set(randomFloats(value.size, 9));
    }
    await compare(generator, classes);
  });

  test('a generator that grows, in a fade: what it is at that step', async () => {
    const small = { imageSize: 16, width: 2, latentSize, attentionAt: [4], stageSteps: 2 };
    const config = resolveConfig({ data: 'none', preset: 'progressive-32', ...small });
    const { generator } = createGan(tape, config);
    generator.growth?.begin(3);
    await compare(generator);
  });

  test.each([{ name: 'relu' }, { name: 'leakyRelu', negativeSlope: 0.2 }] as const)(
    'a convolution that activates its result by $name',
    async (activation) => {
      const conv = new Conv2d(tape, 3, 3, { rng, kernelSize: 3, padding: 1 });
      await compare(new Of((x) => conv.forward(planes(x), activation), { conv }));
    },
  );

  test('classes, and a spectral norm folded into the weight', async () => {
    const table = spectralNorm(new Embedding(tape, classes, 6, { rng }), { rng });
    const line = spectralNorm(new Linear(tape, 6, 4, { rng }), { rng });
    const body = (x: Tensor, of?: Tensor) =>
      of === undefined ? x : line.forward(pointwise.add(x, table.forward(of)));
    const net = new Of(body, { table, line });
    await compare(net, classes);
    const { nodes } = await onnxOf(net, { latentSize, classes });
    expect(nodes.map(({ op }) => op).sort()).toEqual(
      ['Gather', 'Add', 'Transpose', 'MatMul', 'Add', 'Identity'].sort(),
    );
  });

  // `class` is told labels, which sagan's nets are not.
  const untold = Object.keys(attentionKinds).filter((kind) => kind !== 'class');
  test.each(untold)('a generator with %s attention', async (attention) => {
    const small = { imageSize: 16, width: 8, latentSize, attentionAt: [4] };
    const config = { data: 'none', preset: 'sagan-32-tiny', ...small, attention };
    const { generator } = createGan(tape, resolveConfig(config));
    for (const [name, value] of generator.namedParameters()) {
      if (name.endsWith('gamma')) value.set(Float32Array.of(0.7));
    }
    await compare(generator);
    const { nodes } = await onnxOf(generator, { latentSize, classes: 0 });
    // A batch norm has come down to one scale and one shift.
    expect(nodes.some(({ output }) => output === 'generator.main.1.add.scaled')).toBe(true);
    expect(nodes.some(({ op, output }) => op === 'Sub' && output.includes('.main.1.'))).toBe(false);
  });

  test('a generator of clips, with attention over space and time', async () => {
    const small = { imageSize: 16, frames: 4, width: 8, latentSize, attentionG: [8] };
    const { generator } = createGan(
      tape,
      resolveConfig({ data: 'none', preset: 'video-32-tiny', ...small }),
    );
    generator.stateDict().get('main.2.block.gamma')!.set(Float32Array.of(0.7));
    await compare(generator);
  });
});

describe('what cannot be written is told by name', () => {
  const refused = (body: (x: Tensor) => Tensor) =>
    expect(onnxOf(new Of(body), { latentSize, classes: 0 })).rejects;

  test('an op without a form', async () => {
    const mystery = defineOp({
      name: 'mystery',
      infer: (inputs) => [{ shape: at(inputs, 0).shape }],
      forward: (device, { outputs }) => {
        fill(device, { out: only(outputs).storage, n: only(outputs).size, value: 0 });
      },
      backward: ({ grads }) => [() => at(grads, 0) as Tensor],
    });
    await refused((x) => only(mystery([x], undefined))).toThrow(
      'of computes mystery, which cannot be written as ONNX',
    );
  });

  test('a value that changes with the input in a way that no tape records', async () => {
    await refused((x) => pointwise.mul(x, x.detach())).toThrow(
      /^of\..+ \[2, 6\] cannot be written as ONNX: it changes with the input, and no recorded op/,
    );
  });
});
