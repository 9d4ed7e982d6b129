// The kinds of attention behind --attention, and multi-head attention over sequences, against PyTorch: values, gradients,
// second gradients, state-dict keys, replay; and their maps.
import { describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import type { AttentionLayer } from '../../src/nn/attention.ts';
import { attentionKindNames, attentionOf } from '../../src/nn/attention-kinds.ts';
import { AttentionGenerator } from '../../src/nn/gate-attention.ts';
import type { Module } from '../../src/nn/module.ts';
import { MultiHeadAttention } from '../../src/nn/multi-head.ts';
import { loadState } from '../../src/nn/state.ts';
import { sum } from '../../src/ops/reduce.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { createGan, ganStep } from '../../src/train/gan.ts';
import { stepInputs, watchedOf } from '../../src/train/learner.ts';
import { HostRng } from '../../src/util/philox.ts';
import { type GoldenCase, loadGoldenCases } from '../golden/load.ts';
import { expAllowance, maxAbs, softmaxAllowance } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { bitsOf, eagerly, leaf, randomInput, replayed } from '../support/ops.ts';
import { secondBudget, secondOrder } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const rng = new HostRng(1);

const choice = { heads: 4, topk: 3 };
const blockOf = (attention: Exclude<(typeof attentionKindNames)[number], 'none'>) => {
  const [block] = attentionOf({ attention, ...choice }, tape, 16, { rng, classes: 3 });
  return block!;
};
const strided = { rng, outChannels: 5, attentionChannels: 3, stride: 2 };
const blocks: Readonly<Record<string, () => AttentionLayer>> = {
  topk: () => blockOf('topk'),
  linear: () => blockOf('linear'),
  multihead: () => blockOf('multihead'),
  hybrid: () => blockOf('hybrid'),
  gate: () => blockOf('gate'),
  gate_stride: () => new AttentionGenerator(tape, 16, strided),
};

const derived = ['grad.', 'second.'];
function stateOf(golden: GoldenCase<object>, values: readonly string[]) {
  return new Map(
    [...golden.tensors].filter(
      ([key]) => !values.includes(key) && !derived.some((prefix) => key.startsWith(prefix)),
    ),
  );
}

/** Value, gradients and second gradients of a module against a case's, and a replay against them. */
async function expectGolden<M extends Module>(
  golden: GoldenCase<object>,
  how: {
    build: () => M;
    inputs: readonly string[];
    forward: (module: M, inputs: readonly Tensor[]) => Tensor;
    /** Products that meet in one sum. */
    terms: number;
    /** What built-ins may lose, of a number of about 1. */
    allowance: number;
  },
): Promise<void> {
  const make = () => {
    const module = how.build();
    loadState(module, stateOf(golden, [...how.inputs, 'y', 'dy', 'mask']), golden.name);
    return module;
  };
  const module = make();
  const given = how.inputs.map((key) => leaf(tape, golden.tensors.get(key)!, key));
  const dy = leaf(tape, golden.tensors.get('dy')!, 'dy');
  const body = (of: M) => () => {
    const { y, first, second } = secondOrder(
      () => how.forward(of, given),
      [...given, ...of.parameters()],
      dy,
    );
    return [y, ...first, ...second];
  };
  const results = await eagerly(gpu, body(module));
  const names = [...how.inputs, ...[...module.namedParameters()].map(([name]) => name)];
  const groups = [
    ['y'],
    names.map((name) => `grad.${name}`),
    [...names, 'dy'].map((name) => `second.${name}`),
  ];
  let at = 0;
  for (const keys of groups) {
    const limit = secondBudget(
      keys.map((key) => golden.get(key)),
      how,
    );
    for (const key of keys) expectClose(results[at++]!.data, golden.get(key), limit, key);
    expect(Math.max(...keys.map((key) => maxAbs(golden.get(key))))).toBeGreaterThan(0);
  }
  expect(at).toBe(results.length);
  expect(bitsOf(await replayed(gpu, body(make())))).toEqual(bitsOf(results));
}

describe.each(loadGoldenCases<object>('attention_kinds'))('attention kind $name', (golden) => {
  test('has PyTorch’s state-dict keys and shapes', () => {
    const own = [...blocks[golden.name]!().stateDict()].map(([key, t]) => [key, [...t.shape]]);
    const theirs = [...stateOf(golden, ['x', 'y', 'dy'])].map(([key, t]) => [key, [...t.shape]]);
    expect(Object.fromEntries(own)).toEqual(Object.fromEntries(theirs));
  });

  test('value, gradients and second gradients are PyTorch’s, eager and replayed', async () => {
    await expectGolden(golden, {
      build: blocks[golden.name]!,
      inputs: ['x'],
      forward: (block, [x]) => block.forward(x!),
      terms: 2 * 16 * 16,
      allowance: softmaxAllowance(16) + expAllowance(8),
    });
  });
});

describe.each(
  loadGoldenCases<{ heads: number; model: number; width: number; causal: boolean }>(
    'multi_head_attention',
  ),
)('MultiHeadAttention, mask $name', (golden) => {
  test('value, gradients and second gradients are PyTorch’s, eager and replayed', async () => {
    const { heads, model, width, causal } = golden.params;
    const given = golden.tensors.get('mask');
    const data = golden.name === 'boolean' ? Uint32Array.from(given!.data) : given?.data;
    const mask = data && tensor(tape, data, given!.shape);
    await expectGolden(golden, {
      build: () => new MultiHeadAttention(tape, heads, model, width, { rng }),
      inputs: ['q', 'k', 'v'],
      forward: (module, [q, k, v]) => module.forward(q!, k!, v!, { mask, causal }),
      terms: 2 * 5 * 6,
      allowance: softmaxAllowance(5),
    });
  });
});

describe('attention kinds', () => {
  const x = leaf(tape, randomInput([2, 16, 4, 6], 3));
  const labels = tensor(tape, Uint32Array.of(2, 0), [2]);

  test.each(attentionKindNames.filter((kind) => kind !== 'none'))(
    'the map of %s is a weight for each position, all of them 1 together',
    async (kind) => {
      const block = blockOf(kind);
      const [map, whole] = await eagerly(gpu, () => {
        const made = block.map(x, [3, 5], labels);
        return [made, sum(made, [2, 3])];
      });
      const pooled = kind === 'paper' ? [2, 3] : [4, 6];
      expect(map!.shape).toEqual([2, kind === 'multihead' ? 4 : 1, ...pooled]);
      expect(Math.min(...map!.data)).toBeGreaterThanOrEqual(0);
      const ones = new Float64Array(whole!.data.length).fill(1);
      expectClose(whole!.data, ones, { abs: 24 * softmaxAllowance(24) }, 'sum of the map');
      const shown = [...map!.data].filter((w) => w > 0).length;
      expect(shown).toBe(kind === 'topk' ? 2 * 3 : map!.data.length);
      expect(() => block.map(x, [4, 0], labels)).toThrow(
        'query 4, 0 lies outside the map of 4 × 6',
      );
    },
  );

  test('the map of topk is what its values are gathered by', async () => {
    const block = blockOf('topk');
    const value = { weight: 'value_conv.weight', bias: 'value_conv.bias' };
    const state = block.stateDict();
    // gamma 1 and values of 1 everywhere: each position gathers the sum of its weights
    state.get('gamma')!.set(Float32Array.of(1));
    state.get(value.weight)!.set(new Float32Array(256));
    state.get(value.bias)!.set(new Float32Array(16).fill(1));
    const [y] = await eagerly(gpu, () => [block.forward(x)]);
    const wanted = (await x.read()).map((a) => a + 1);
    expectClose(y!.data, wanted, { abs: 8 * softmaxAllowance(3) }, 'y');
  });

  test('heads that do not divide are refused', () => {
    const options = { attention: 'multihead', heads: 3 } as const;
    expect(() => attentionOf(options, tape, 16, { rng })).toThrow(
      'multi-head attention: 3 heads do not divide 16 channels',
    );
  });
});

describe.each(['f32', 'f16'] as const)('two steps of a small GAN in %s', (precision) => {
  const absent = precision === 'f16' && !gpu.features.has('shader-f16');

  test.skipIf(absent).each(attentionKindNames)('with attention %s', async (attention) => {
    const sizes = { imageSize: 16, width: 16, batch: 2, attentionAt: [8], ...choice };
    // The kind that is told classes stands in a net that is.
    const net =
      attention === 'class'
        ? { preset: 'sagan-resnet-32', conditional: true, classes: 3, imageSize: 32, width: 8 }
        : { preset: 'sagan-32-tiny' };
    const asked = { data: 'none', init: 'normal', ...sizes, ...net, attention, precision };
    const gan = createGan(tape, resolveConfig(asked));
    // The first scales of losses in f16 overflow, and such a step is left out.
    for (const { state } of Object.values(gan.scalers ?? {})) {
      state.set((await state.read()).with(0, 256));
    }
    const inputs = stepInputs(gan);
    for (const { images } of inputs) images.set(new Uint32Array(images.size).fill(0x40_80_c0_ff));
    const weights = async () => {
      const nets = [gan.generator, gan.discriminator];
      return Promise.all(nets.flatMap((net) => net.parameters()).map((p) => p.read()));
    };
    const before = await weights();
    const program = await gpu.capture(() => watchedOf(gan, ganStep(gan, inputs))).build();
    for (let i = 0; i < 2; i++) program.run();
    const after = await weights();
    program.destroy();
    expect(after.every((values) => values.every(Number.isFinite))).toBe(true);
    const moved = after.filter((values, i) => values.some((w, j) => w !== before[i]![j])).length;
    expect(moved).toBeGreaterThan(after.length / 2);
  });
});

test('the attention kinds wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
