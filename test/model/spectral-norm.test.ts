// The spectral norm wrapper against torch.nn.utils.spectral_norm over several calls.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { Conv2d, ConvTranspose2d } from '../../src/nn/conv.ts';
import { Embedding } from '../../src/nn/embedding.ts';
import { Linear } from '../../src/nn/linear.ts';
import { Module } from '../../src/nn/module.ts';
import { Spectra } from '../../src/nn/spectra.ts';
import { spectralNorm } from '../../src/nn/weighted.ts';
import type { WeightedLayer } from '../../src/nn/weighted.ts';
import { add, mul, square } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { HostRng } from '../../src/util/philox.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { type Budget, divideAllowance, f32, f64, maxAbs } from '../reference/naive.ts';
import { budget } from '../reference/naive.ts';
import { permute } from '../reference/shape.ts';
import { spectralNorm as reference, spectralNormBackward } from '../reference/spectral.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const rng = new HostRng(1);

interface Params {
  readonly kind: string;
  readonly rows: number;
  readonly cols: number;
  readonly dim: number;
  readonly shape: readonly number[];
}

/** The weight that a layer gives an input to multiply. */
interface Weighty {
  weight(input: Pick<Tensor, 'dtype'>): Tensor;
}
const floats = { dtype: 'f32' } as const;

const layers: Record<string, () => WeightedLayer & Weighty> = Object.fromEntries(
  Object.entries({
    linear: () => new Linear(tape, 7, 5, { rng }),
    conv2d: () => new Conv2d(tape, 3, 4, { rng, kernelSize: 3 }),
    conv_transpose2d: () => new ConvTranspose2d(tape, 6, 5, { rng, kernelSize: [4, 3] }),
    embedding: () => new Embedding(tape, 6, 3, { rng }),
    one_row: () => new Linear(tape, 9, 1, { rng }),
  }).map(([name, make]) => [name, () => spectralNorm(make(), { rng }) as never]),
);

describe.each(loadGoldenCases<Params>('spectral_norm'))('spectral norm of $name', (golden) => {
  const { rows, cols, dim, shape } = golden.params;
  const order = [dim, ...shape.map((_d, i) => i).filter((i) => i !== dim)];
  const toMatrix = (x: ArrayLike<number>) => permute({ x, shape, order }, f64);
  const fromMatrix = (x: ArrayLike<number>) => {
    const moved = order.map((axis) => shape[axis]!);
    return permute({ x, shape: moved, order: order.map((_a, i) => order.indexOf(i)) }, f64);
  };

  /** What float32 may lose at each of the four calls and the evaluation, from the reference at both precisions. */
  function limits() {
    const run = (r: (x: number) => number) => {
      let state = {
        u: golden.get('weight_u') as ArrayLike<number>,
        v: golden.get('weight_v') as ArrayLike<number>,
      };
      return [1, 2, 3, 4, 5].map((call) => {
        const o = {
          w: toMatrix(golden.get('weight_orig')),
          rows,
          cols,
          ...state,
          training: call < 5,
        };
        const out = reference(o, r);
        const { dw } = spectralNormBackward(o, toMatrix(golden.get('dweight')), r);
        state = out;
        return { ...out, weight: fromMatrix(out.weight), dw: fromMatrix(dw) };
      });
    };
    const [exact, naive] = [run(f64), run(f32)];
    return exact.map((a, i) => {
      const b = naive[i]!;
      const of = (x: ArrayLike<number>, y: ArrayLike<number>): Budget =>
        budget(x, y, { allowance: 2 * divideAllowance(maxAbs(x)) });
      return {
        u: of(a.u, b.u),
        v: of(a.v, b.v),
        weight: of(a.weight, b.weight),
        grad: of(a.dw, b.dw),
      };
    });
  }

  test('four training calls and one in evaluation are PyTorch’s', async () => {
    const layer = layers[golden.name]!();
    const state = layer.stateDict();
    expect([...state.keys()].filter((key) => key !== 'bias').sort()).toEqual([
      'weight_orig',
      'weight_u',
      'weight_v',
    ]);
    for (const key of ['weight_orig', 'weight_u', 'weight_v']) {
      expect([...state.get(key)!.shape]).toEqual([...golden.tensors.get(key)!.shape]);
      state.get(key)!.set(golden.get(key));
    }
    const dweight = tensor(tape, golden.get('dweight'), shape);
    const limit = limits();
    for (const call of [1, 2, 3, 4, 'eval'] as const) {
      layer.train(call !== 'eval');
      const weight = layer.weight(floats);
      const [g] = grad([weight], [layer.weightParameter], { gradOutputs: [dweight] });
      const of = limit[call === 'eval' ? 4 : call - 1]!;
      const [w, dw] =
        call === 'eval' ? ['weight_eval', 'grad_eval'] : [`weight${call}`, `grad${call}`];
      expectClose(await weight.read(), golden.get(w!), of.weight, w!);
      expectClose(await g!.read(), golden.get(dw!), of.grad, dw!);
      // in evaluation u and v stay those of call 4
      const last = call === 'eval' ? 4 : call;
      expectClose(await state.get('weight_u')!.read(), golden.get(`u${last}`), of.u, `u${last}`);
      expectClose(await state.get('weight_v')!.read(), golden.get(`v${last}`), of.v, `v${last}`);
    }
  });
});

describe('spectral norm wrapper', () => {
  test('evaluation moves no bit of u and v; training moves both', async () => {
    const layer = layers['conv2d']!();
    const read = async () => [
      ...(await layer.spectral!.u.read()),
      ...(await layer.spectral!.v.read()),
    ];
    const start = await read();
    layer.eval().weight(floats);
    expect(await read()).toEqual(start);
    layer.weightParameter.set(Float32Array.from({ length: 108 }, (_u, i) => Math.sin(i)));
    layer.train().weight(floats);
    expect(await read()).not.toEqual(start);
  });

  test('the warm-up leaves σ within a few per cent of the largest singular value', async () => {
    const layer = spectralNorm(new Linear(tape, 64, 64, { rng, bias: false }), { rng });
    const estimate = await layer.weightParameter.read();
    const normal = await (layer as unknown as Weighty).weight(floats).read();
    // power iteration on the host, to the end
    const w = (v: Float64Array, t: boolean) =>
      Float64Array.from({ length: 64 }, (_u, i) =>
        v.reduce((s, x, j) => s + x * normal[t ? 64 * j + i : 64 * i + j]!, 0),
      );
    let v = new Float64Array(64).fill(1);
    let sigma = 0;
    for (let i = 0; i < 2000; i++) {
      const next = w(w(v, false), true);
      const norm = Math.sqrt(next.reduce((s, x) => s + x * x, 0));
      sigma = Math.sqrt(norm / Math.sqrt(v.reduce((s, x) => s + x * x, 0)));
      v = next.map((x) => x / norm);
    }
    expect(estimate).not.toEqual(normal);
    expect(sigma).toBeGreaterThan(0.999);
    expect(sigma).toBeLessThan(1.1);
  });

  test('wrapping twice is refused', () => {
    const layer = layers['linear']!();
    expect(() => spectralNorm(layer, { rng })).toThrow('spectrally normalised already');
  });
});

const types = gpu.features.has('shader-f16') ? (['f32', 'f16'] as const) : (['f32'] as const);
describe.each(types)('the spectral norms of a net taken together, for inputs of %s', (dtype) => {
  const input = tensor(tape, [0], [1], { dtype });
  /** Layers of odd sizes too, so that vec4s fit some and not others; and a bias between the weights. */
  class Net extends Module {
    readonly layers = [
      new Conv2d(tape, 3, 5, { rng: new HostRng(7), kernelSize: 3 }),
      new ConvTranspose2d(tape, 5, 4, { rng: new HostRng(8), kernelSize: 4 }),
      new Conv2d(tape, 8, 70, { rng: new HostRng(9), kernelSize: 4 }),
      new Linear(tape, 9, 1, { rng: new HostRng(10) }),
    ].map((layer, i) => this.child(String(i), spectralNorm(layer, { rng: new HostRng(i) })));
    readonly spectra = new Spectra(this);

    weights(together: boolean): Tensor[] {
      const all = () => this.layers.map((layer) => (layer as unknown as Weighty).weight(input));
      return together ? this.spectra.during(input, all) : all();
    }
  }

  async function twoSteps(how: { together: boolean; captured: boolean; only?: number }) {
    const net = new Net(tape);
    const originals = net.layers.map((layer) => layer.weightParameter);
    const body = () => {
      const weights = net.weights(how.together).filter((_w, i) => i === (how.only ?? i));
      const energy = weights.map((w) => sum(square(mul(w, w)))).reduce((a, b) => add(a, b));
      const gradients = grad([energy], originals, { allowUnused: true });
      return [...weights, ...gradients];
    };
    const { launches, results } = how.captured
      ? await replay(body)
      : { launches: 0, results: (body(), body()) };
    const state = [...net.namedBuffers()].map(([, t]) => t);
    return { launches, values: await Promise.all([...results, ...state].map((t) => t.read())) };
  }

  async function replay(body: () => Tensor[]) {
    let results: Tensor[] = [];
    const capture = gpu.capture(() => {
      results = body();
      return results.map((t) => t.storage);
    });
    const spectral = capture.dispatches.filter((d) => d.spec.name.startsWith('spectral/'));
    const program = await capture.build();
    program.run();
    program.run();
    return { launches: spectral.length, results };
  }

  test.each([undefined, 2])(
    'eight launches, the bits of each alone (gradient of %s)',
    async (only) => {
      const chosen = only === undefined ? {} : { only };
      const alone = await twoSteps({ together: false, captured: true, ...chosen });
      const one = await twoSteps({ together: true, captured: true, ...chosen });
      const eager = await twoSteps({ together: true, captured: false, ...chosen });
      expect(one.values).toEqual(alone.values);
      expect(eager.values).toEqual(alone.values);
      expect(alone.launches).toBe(only === undefined ? 4 * 8 : 4 * 5 + 3);
      expect(one.launches).toBe(8);
    },
  );

  test('evaluation moves nothing, and a layer in another mode is left to itself', async () => {
    const net = new Net(tape);
    const before = await Promise.all([...net.namedBuffers()].map(([, t]) => t.read()));
    net.eval().weights(true);
    expect(await Promise.all([...net.namedBuffers()].map(([, t]) => t.read()))).toEqual(before);
    net.layers[1]!.train();
    net.weights(true);
    const after = await Promise.all([...net.namedBuffers()].map(([, t]) => t.read()));
    expect(after.map((x, i) => JSON.stringify(x) !== JSON.stringify(before[i]))).toEqual(
      [...net.namedBuffers()].map(([name]) => name.startsWith('1.')),
    );
  });

  test('a forward pass that throws leaves no weight behind', () => {
    const net = new Net(tape);
    const fail = () => {
      throw new Error('no');
    };
    expect(() => net.spectra.during(input, fail)).toThrow('no');
    const [first] = net.weights(false);
    expect((net.layers[0] as unknown as Weighty).weight(input)).not.toBe(first);
  });
});

test('the spectral norms wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
