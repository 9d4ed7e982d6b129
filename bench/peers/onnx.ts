/**
 * ONNX Runtime for Node on its WebGPU provider, which brings a Dawn of its own: our throttle has nothing to hold there,
 * the vector width has. Forward only, and its times include the copy of input and output: its Node API keeps no tensor
 * on the GPU. Weights are constants of the model, as in inference.
 */
import { readFileSync } from 'node:fs';
import * as ort from 'onnxruntime-node';
import { dim } from '../../src/util/shape.ts';
import type { Shape } from '../../src/util/shape.ts';
import type { PeerCase, Values } from './cases.ts';
import { pathOf } from './child.ts';
import { encodeModel } from '../../src/io/onnx.ts';
import type { OnnxGraph, OnnxNode } from '../../src/io/onnx.ts';
import { input, openDriver, serve } from './worker.ts';
import type { Prepared, Task } from './worker.ts';

async function open(task: Task) {
  // Opens our driver for the process: the runtime's Dawn finds the same loader, driver and width.
  await openDriver(task);
  const manifest = readFileSync(pathOf('node_modules/onnxruntime-node/package.json'), 'utf8');
  return { version: (JSON.parse(manifest) as { version: string }).version, prepare };
}

async function prepare(c: PeerCase, values: Values): Promise<Prepared> {
  const graph = graphOf(c, values);
  const session = await ort.InferenceSession.create(encodeModel(graph), {
    executionProviders: ['webgpu'],
    logSeverityLevel: 3,
  });
  const fed = c.inputs.filter(([name]) => graph.inputs.some(([given]) => given === name));
  const feeds = Object.fromEntries(
    fed.map(([name, shape]) => [name, new ort.Tensor('float32', input(values, name), shape)]),
  );
  const once = async () => {
    const found = await session.run(feeds);
    return found['y']?.data as Float32Array;
  };
  return {
    run: async (times) => {
      for (let i = 0; i < times; i++) await once();
    },
    outputs: async () => new Map([['y', await once()]]),
  };
}

/** The first input changes from run to run, the others are constants; a product has two that change. */
function graphOf(c: PeerCase, values: Values): OnnxGraph {
  const shapes = new Map(c.inputs);
  const shape = (name: string): Shape => shapes.get(name) ?? [];
  const changing = c.work.op === 'matmul' ? c.inputs : c.inputs.slice(0, 1);
  const constants = c.inputs
    .slice(changing.length)
    .map(([name, sizes]) => [name, sizes, input(values, name)] as const);
  const node = (
    op: string,
    inputs: string[],
    output: string,
    ints: OnnxNode['ints'] = {},
  ): OnnxNode => ({ op, inputs, output, ints });
  const x = shape('x');
  switch (c.work.op) {
    case 'matmul': {
      const y = [...shape('a').slice(0, -1), dim(shape('b'), -1)];
      return {
        inputs: changing,
        constants,
        output: ['y', y],
        nodes: [node('MatMul', ['a', 'b'], 'y')],
      };
    }
    case 'softmax':
      return {
        inputs: changing,
        constants,
        output: ['y', x],
        nodes: [node('Softmax', ['x'], 'y', { axis: -1 })],
      };
    case 'conv2d':
    case 'convTranspose2d': {
      const { stride, padding } = c.work;
      const [op, to] =
        c.work.op === 'conv2d' ? (['Conv', 0] as const) : (['ConvTranspose', 1] as const);
      const [kernel, side] = [dim(shape('w'), 2), dim(x, 2)];
      const out =
        op === 'Conv'
          ? Math.floor((side + 2 * padding - kernel) / stride) + 1
          : (side - 1) * stride - 2 * padding + kernel;
      const ints = {
        strides: [stride, stride],
        pads: Array<number>(4).fill(padding),
        kernel_shape: [kernel, kernel],
      };
      const y = [dim(x, 0), dim(shape('w'), to), out, out];
      return {
        inputs: changing,
        constants,
        output: ['y', y],
        nodes: [node(op, ['x', 'w'], 'y', ints)],
      };
    }
    case 'attention': {
      const flat = BigInt64Array.from([dim(x, 0), -1, dim(x, 2) * dim(x, 3)], BigInt);
      const image = BigInt64Array.from(x, BigInt);
      const swap = { perm: [0, 2, 1] };
      const sequence = (name: string) => [
        node('Conv', ['x', `${name}_conv.weight`, `${name}_conv.bias`], `${name}_image`),
        node('Reshape', [`${name}_image`, 'flat'], name),
      ];
      const nodes = [
        ...['query', 'key', 'value'].flatMap(sequence),
        node('Transpose', ['query'], 'query_t', swap),
        node('MatMul', ['query_t', 'key'], 'scores'),
        node('Softmax', ['scores'], 'weights', { axis: -1 }),
        node('Transpose', ['weights'], 'weights_t', swap),
        node('MatMul', ['value', 'weights_t'], 'mixed'),
        node('Reshape', ['mixed', 'image'], 'mixed_image'),
        node('Mul', ['mixed_image', 'gamma'], 'gated'),
        node('Add', ['gated', 'x'], 'y'),
      ];
      const sizes = [
        ['flat', [3], flat],
        ['image', [4], image],
      ] as const;
      return { inputs: changing, constants: [...constants, ...sizes], output: ['y', x], nodes };
    }
    case 'gan':
      throw new Error('onnxruntime-node has no gradients');
  }
}

await serve(open);
