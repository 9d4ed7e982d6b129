// The self-attention blocks of systems 1 and 2 against PyTorch: values, maps, gradients, second gradients, state-dict keys.
import { describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { PooledSelfAttention, SelfAttention } from '../../src/nn/attention.ts';
import type { Layer } from '../../src/nn/module.ts';
import { loadState } from '../../src/nn/state.ts';
import { matmul } from '../../src/ops/matmul.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { HostRng } from '../../src/util/philox.ts';
import { type GoldenCase, loadGoldenCases } from '../golden/load.ts';
import { budget, f32, f64, maxAbs, softmaxAllowance } from '../reference/naive.ts';
import { makeNet, paperAttention, selfAttention } from '../reference/sagan.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { bitsOf, eagerly, leaf, replayed } from '../support/ops.ts';
import { secondBudget, secondOrder } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const rng = new HostRng(1);

interface Params {
  readonly B: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
  readonly scale: number;
}

/** The block of a case, its reference, and the keys that PyTorch gives its state. */
const blocks: Record<string, () => Layer> = {
  plain: () => new SelfAttention(tape, 16, { rng }),
  scaled: () => new SelfAttention(tape, 16, { rng, scaled: true }),
  paper: () => new PooledSelfAttention(tape, 16, { rng }),
  paper_sn: () => new PooledSelfAttention(tape, 16, { rng, spectral: true }),
};

const derived = ['grad.', 'second.', 'after.'];
const values = ['x', 'y', 'dy', 'attention'];

function stateOf(golden: GoldenCase<Params>) {
  return new Map(
    [...golden.tensors].filter(
      ([key]) => !values.includes(key) && !derived.some((prefix) => key.startsWith(prefix)),
    ),
  );
}

/** The reference block at a precision: value, gradients by name, state after. */
function reference(golden: GoldenCase<Params>, r: (x: number) => number) {
  const { B: N, scale, ...size } = golden.params;
  const state = [...stateOf(golden)].map(([key, { data }]) => [key, data] as const);
  const net = makeNet(state, r);
  const x = Float64Array.from(golden.get('x'));
  const layer = golden.name.startsWith('paper')
    ? paperAttention(net, '', x, { N, ...size })
    : selfAttention(net, '', x, { N, ...size }, scale);
  const grads = new Map([['x', layer.back(Float64Array.from(golden.get('dy')))], ...net.grads]);
  return { y: layer.y, grads, state: net.state };
}

describe.each(loadGoldenCases<Params>('self_attention_blocks'))(
  'attention block $name',
  (golden) => {
    const build = () => {
      const block = blocks[golden.name]!();
      loadState(block, stateOf(golden), golden.name);
      return block;
    };
    const body = (block: Layer, x: Tensor, dy: Tensor) => () => {
      const parameters = block.parameters();
      const { y, first, second } = secondOrder(() => block.forward(x), [x, ...parameters], dy);
      return [y, ...first, ...second];
    };

    test('has PyTorch’s state-dict keys and shapes', () => {
      const own = [...blocks[golden.name]!().stateDict()].map(([key, t]) => [key, [...t.shape]]);
      const theirs = [...stateOf(golden)].map(([key, t]) => [key, [...t.shape]]);
      expect(Object.fromEntries(own)).toEqual(Object.fromEntries(theirs));
    });

    test('value, gradients and second gradients are PyTorch’s, eager and replayed', async () => {
      const block = build();
      const names = ['x', ...[...block.namedParameters()].map(([name]) => name)];
      const x = leaf(tape, golden.tensors.get('x')!, 'x');
      const dy = leaf(tape, golden.tensors.get('dy')!, 'dy');
      const results = await eagerly(gpu, body(block, x, dy));
      const [exact, naive] = [reference(golden, f64), reference(golden, f32)];
      const { C, H, W } = golden.params;
      const allowance = softmaxAllowance(H * W) * maxAbs(golden.get('y'));
      const value = budget(exact.y, naive.y, { allowance });
      expectClose(results[0]!.data, golden.get('y'), value, 'y');

      // A weight's gradient sums over batch and positions, one with no gradient of its own (key_conv.bias) too.
      const scale = Math.max(...[...exact.grads.values()].map(maxAbs));
      names.forEach((name, i) => {
        const limit = budget(exact.grads.get(name)!, naive.grads.get(name)!, {
          scale,
          allowance: softmaxAllowance(H * W) * scale,
        });
        expectClose(results[1 + i]!.data, golden.get(`grad.${name}`), limit, `gradient of ${name}`);
      });

      const wanted = [...names, 'dy'].map((name) => golden.get(`second.${name}`));
      const limit = secondBudget(wanted, { terms: golden.params.B * H * W * C });
      [...names, 'dy'].forEach((name, i) => {
        const found = results[1 + names.length + i]!.data;
        expectClose(found, golden.get(`second.${name}`), limit, `second gradient of ${name}`);
      });

      const updated = [...golden.tensors.keys()].filter((key) => key.startsWith('after.'));
      expect(updated).toHaveLength(golden.name === 'paper_sn' ? 8 : 0);
      for (const key of updated) {
        const name = key.slice('after.'.length);
        const found = await block.stateDict().get(name)!.read();
        const after = budget(exact.state.get(name)!, naive.state.get(name)!);
        expectClose(found, golden.get(key), after, key);
      }

      expect(bitsOf(await replayed(gpu, body(build(), x, dy)))).toEqual(bitsOf(results));
    });
  },
);

describe('self-attention, the options', () => {
  const [golden] = loadGoldenCases<Params>('self_attention_blocks');
  const x = leaf(tape, golden!.tensors.get('x')!, 'x');

  test('the projections give PyTorch’s attention map', async () => {
    const block = new SelfAttention(tape, 16, { rng });
    loadState(block, stateOf(golden!), 'plain');
    const { q, k } = block.project(x);
    expect(q.shape).toEqual([2, 2, 16]);
    const map = softmax(matmul(q, k, { transA: true }));
    expect(map.shape).toEqual(golden!.tensors.get('attention')!.shape);
    // weights below 1 of logits below 16
    const logits = 2 ** -23 * 16;
    expectClose(
      await map.read(),
      golden!.get('attention'),
      { abs: logits + softmaxAllowance(16) },
      'map',
    );
  });

  test('a fresh block passes its input through, gamma being 0', async () => {
    const y = new SelfAttention(tape, 16, { rng }).forward(x);
    expect(await y.read()).toEqual(Float32Array.from(golden!.get('x')));
  });

  test('other output channels bring a 1×1 shortcut', () => {
    const block = new SelfAttention(tape, 16, { rng, outChannels: 24, spectral: true });
    expect(block.forward(x).shape).toEqual([2, 24, 4, 4]);
    const shapes = [...block.namedParameters()].map(([key, t]) => `${key} ${t.shape.join('×')}`);
    expect(shapes).toEqual([
      'gamma 1',
      'query_conv.weight_orig 3×16×1×1',
      'query_conv.bias 3',
      'key_conv.weight_orig 3×16×1×1',
      'key_conv.bias 3',
      'value_conv.weight_orig 24×16×1×1',
      'value_conv.bias 24',
      'shortcut_conv.weight_orig 24×16×1×1',
      'shortcut_conv.bias 24',
    ]);
  });

  test('the pooled block takes only the options that it heeds', () => {
    // @ts-expect-error: the result has the channels of the input
    new PooledSelfAttention(tape, 16, { rng, outChannels: 24 });
    // @ts-expect-error: the paper's scores have no scale
    new PooledSelfAttention(tape, 16, { rng, scaled: true });
    // @ts-expect-error: the paper's convolutions have no bias
    new PooledSelfAttention(tape, 16, { rng, bias: true });
    const block = new PooledSelfAttention(tape, 16, { rng, reduction: 4 });
    expect(block.stateDict().get('theta.weight')!.shape).toEqual([4, 16, 1, 1]);
    expect(block.forward(x).shape).toEqual(x.shape);
  });

  test('few channels still have one channel of query and key', () => {
    const block = new SelfAttention(tape, 4, { rng, reduction: 8 });
    expect(block.stateDict().get('query_conv.weight')!.shape).toEqual([1, 4, 1, 1]);
  });
});

test('the attention blocks wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
