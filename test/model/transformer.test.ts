// Sequence to sequence against PyTorch: layer norm to second order, cross-entropy, a whole encoder–decoder; then what its
// masks and its dropout promise.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { Transformer } from '../../src/models/transformer.ts';
import type { TransformerOptions } from '../../src/models/transformer.ts';
import { loadState } from '../../src/nn/state.ts';
import { Positions, sinusoids } from '../../src/nn/transformer.ts';
import { crossEntropy } from '../../src/ops/cross-entropy.ts';
import { layerNorm } from '../../src/ops/layer-norm.ts';
import { reshape } from '../../src/ops/layout.ts';
import { Rng } from '../../src/ops/random.ts';
import { HostRng } from '../../src/util/philox.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { logAllowance, maxAbs, softmaxAllowance, sqrtAllowance, ulp } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { bitsOf, eagerly, leaf, replayed } from '../support/ops.ts';
import { secondBudget, secondOrder } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

test.each(loadGoldenCases<{ eps: number }>('layer_norm'))(
  'layer norm of $name: value, gradients and second gradients',
  async ({ params, get, tensors }) => {
    const names = ['x', 'gamma', 'beta'] as const;
    const [x, weight, bias] = names.map((name) => leaf(tape, tensors.get(name)!, name));
    const dy = leaf(tape, tensors.get('dy')!, 'dy');
    const results = await eagerly(gpu, () => {
      const f = () => layerNorm(x!, { weight: weight!, bias: bias!, ...params });
      const { y, first, second } = secondOrder(f, [x!, weight!, bias!], dy);
      return [y, ...first, ...second];
    });
    const keys = [
      ...['y', ...names.map((n) => `grad.${n}`)],
      ...[...names, 'dy'].map((n) => `second.${n}`),
    ];
    // Rows far from 0 lose what their mean is larger than they are.
    const loss = maxAbs(get('x')) / 2;
    const terms = Math.ceil(16 * loss);
    const allowance = sqrtAllowance(1);
    for (const [i, key] of keys.entries()) {
      const family = key.split('.')[0]!;
      const all = keys.filter((k) => k.startsWith(family)).map((k) => get(k));
      expectClose(results[i]!.data, get(key), secondBudget(all, { terms, allowance }), key);
    }
  },
);

test.each(loadGoldenCases<{ smoothing: number; ignore: number | null }>('cross_entropy'))(
  'cross-entropy, $name: value and gradient',
  async ({ params, get, tensors }) => {
    const logits = leaf(tape, tensors.get('logits')!);
    const labels = tensor(tape, Uint32Array.from(get('labels')), [6]);
    const options = {
      labelSmoothing: params.smoothing,
      ...(params.ignore !== null && { ignoreIndex: params.ignore }),
    };
    const [loss, gradient] = await eagerly(gpu, () => {
      const made = crossEntropy(logits, labels, options);
      return [made, ...grad([made], [logits])];
    });
    const terms = 6 * maxAbs(get('logits')) * 2 ** -24;
    const allowance = softmaxAllowance(5) + logAllowance(maxAbs(get('logits')));
    expectClose(loss!.data, get('loss'), { abs: terms + allowance }, 'loss');
    expectClose(gradient!.data, get('dlogits'), { abs: terms + allowance }, 'gradient');
  },
);

interface Sizes {
  readonly width: number;
  readonly heads: number;
  readonly hidden: number;
  readonly layers: number;
  readonly sourceWords: number;
  readonly targetWords: number;
}

const [golden] = loadGoldenCases<Sizes>('transformer');
const { width, heads, hidden, layers, ...words } = golden!.params;

function build(more: Partial<TransformerOptions> = {}) {
  const net = new Transformer(tape, {
    ...{ dModel: width, heads, feedForward: hidden, layers, ...words },
    ...{ sourceLength: 5, targetLength: 4, dropout: 0 },
    ...{ rng: new HostRng(1), noise: new Rng(tape, 1) },
    ...more,
  });
  const other = /^(grad\.|error\.|(source|target|labels|logits|loss)$)/;
  loadState(net, new Map([...golden!.tensors].filter(([key]) => !other.test(key))), 'golden');
  return net;
}

const indices = (name: string, change = (data: Uint32Array) => data) => {
  const { shape, data } = golden!.tensors.get(name)!;
  return tensor(tape, change(Uint32Array.from(data)), shape);
};

describe('the encoder–decoder', () => {
  test('logits, loss and every gradient are PyTorch’s, eager and replayed', async () => {
    const net = build();
    const named = [...net.namedParameters()];
    const [source, target] = [indices('source'), indices('target')];
    const labels = tensor(tape, Uint32Array.from(golden!.get('labels')), [12]);
    const parameters = named.map(([, p]) => p);
    const body = () => {
      const logits = net.forward(source, target);
      const flat = reshape(logits, [-1, words.targetWords]);
      const loss = crossEntropy(flat, labels, { ignoreIndex: 0, labelSmoothing: 0.1 });
      return [logits, loss, ...grad([loss], parameters)];
    };
    const results = await eagerly(gpu, body);
    const gradients = named.map(([name]) => `grad.${name}`);
    const largest = Math.max(...gradients.map((key) => maxAbs(golden!.get(key))));
    const keys = ['logits', 'loss', ...gradients];
    for (const [i, key] of keys.entries()) {
      const wanted = golden!.get(key);
      // A gradient may be 0 but for rounding, of terms as large as the others'.
      const scale = key.startsWith('grad.') ? largest : maxAbs(wanted);
      const allowance = (softmaxAllowance(5) + sqrtAllowance(1)) * scale;
      const abs = 2 * golden!.get(`error.${key}`)[0]! + 4 * ulp(scale) + allowance;
      expectClose(results[i]!.data, wanted, { abs }, key);
    }
    expect(keys.length).toBe(
      [...golden!.tensors.keys()].filter((k) => k.startsWith('error.')).length,
    );
    expect(bitsOf(await replayed(gpu, body))).toEqual(bitsOf(results));
  });

  test('what is behind a source’s end, and later words of a target, change nothing before them', async () => {
    const net = build();
    const target = indices('target');
    const logits = (source: typeof target, words = target) =>
      eagerly(gpu, () => [net.forward(source, words)]).then(([made]) => made!.data);
    const before = await logits(indices('source'));
    // Row 1 has two words: a longer source of the same row is another, a later target word is not.
    const longer = await logits(indices('source', (data) => data.with(5 + 2, 3)));
    const rowOf = (data: Float32Array, row: number, steps = 4) =>
      data.slice(row * 24, row * 24 + steps * 6);
    expect(rowOf(longer, 0)).toEqual(rowOf(before, 0));
    expect(rowOf(longer, 1)).not.toEqual(rowOf(before, 1));
    const later = await logits(
      indices('source'),
      indices('target', (d) => d.with(2, 3)),
    );
    expect(rowOf(later, 0, 2)).toEqual(rowOf(before, 0, 2));
    expect(rowOf(later, 0)).not.toEqual(rowOf(before, 0));
  });

  test('dropout is of training alone, anew each step and the same from the same counter', async () => {
    const noise = new Rng(tape, 3);
    const net = build({ dropout: 0.5, noise });
    const [source, target] = [indices('source'), indices('target')];
    const logits = async (counter: number) => {
      noise.restore(counter);
      const [made] = await eagerly(gpu, () => [net.forward(source, target)]);
      return made!.data;
    };
    const [first, second, again] = [await logits(0), await logits(1), await logits(0)];
    expect(again).toEqual(first);
    expect(second).not.toEqual(first);
    net.eval();
    const [calm] = await eagerly(gpu, () => [net.forward(source, target)]);
    const [plain] = await eagerly(gpu, () => [build().forward(source, target)]);
    expect(calm!.data).toEqual(plain!.data);
  });

  test('sizes that do not fit are refused', () => {
    expect(() => build({ heads: 3 })).toThrow('Transformer: 3 heads do not divide a width of 8');
    gpu.scope(() => {
      const x = tensor(tape, new Float32Array(16), [1, 2, 8]);
      expect(() => new Positions(tape, 3, 8).forward(x)).toThrow(
        'Positions: input is [1, 2, 8], the positions are [3, 8]; the lengths must agree',
      );
    });
  });
});

test('positions are the paper’s sines and cosines', () => {
  const [one, rate] = [sinusoids(3, 4).slice(4, 8), 10_000 ** -0.5];
  const wanted = [Math.sin(1), Math.cos(1), Math.sin(rate), Math.cos(rate)];
  expectClose(one, wanted, { abs: 2 ** -24 }, 'position 1');
  expect([...sinusoids(1, 4)]).toEqual([0, 1, 0, 1]);
});

test('the transformer wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
