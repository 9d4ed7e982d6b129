// The loss scale of training in f16: what counts as an overflow, what becomes of the scale, and that a step which overflowed
// changes nothing.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { constOf } from '../../src/gpu/wgsl.ts';
import { sourceOf } from '../../src/kernels/kernel.ts';
import {
  inspectGradients,
  scalerIndex,
  scalerUpdate,
  scalerWords,
  validOf,
} from '../../src/kernels/optim.ts';
import { add, mul } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { Adam } from '../../src/optim/adam.ts';
import { GradScaler } from '../../src/optim/scaler.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, wordsOf } from '../support/execute.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

test('the words of the kernels are those of the wrapper', () => {
  const constantOf = (name: string) => name.toUpperCase();
  for (const [name, index] of Object.entries(scalerIndex)) {
    expect(constOf(sourceOf('optim/scaler.wgsl'), constantOf(name)), name).toBe(index);
  }
  for (const name of ['scale', 'found'] as const) {
    expect(constOf(sourceOf('optim/adam.wgsl'), constantOf(name)), name).toBe(scalerIndex[name]);
  }
  expect(Math.max(...Object.values(scalerIndex))).toBeLessThan(scalerWords);
});

describe('what is an overflow', () => {
  /** Looks at a row in which tensors of these lengths begin at multiples of 128. */
  async function isFound(g: Float32Array, tensors: readonly { from: number; n: number }[]) {
    const { state } = await execute(
      gpu,
      { g, valid: validOf(tensors), state: new Float32Array(scalerWords) },
      (s) => {
        inspectGradients(gpu, { g: s.g, valid: s.valid, scaler: s.state, n: g.length });
      },
      ['state'],
    );
    return wordsOf(state)[scalerIndex.found] !== 0;
  }

  test.each([Infinity, -Infinity, NaN])(
    '%d at any place of any tensor, and nowhere else',
    async (bad) => {
      const tensors = [
        { from: 0, n: 130 },
        { from: 256, n: 1 },
        { from: 384, n: 128 },
        { from: 512, n: 7 },
      ];
      const row = () => Float32Array.from(randomData(640, 1), (x) => 3e38 * x);
      expect(await isFound(row(), tensors)).toBe(false);
      for (const at of [0, 3, 127, 128, 129, 256, 384, 511, 512, 518]) {
        const g = row();
        g[at] = bad;
        expect(await isFound(g, tensors), `${bad} at ${at}`).toBe(true);
      }
      for (const at of [130, 133, 255, 257, 260, 519, 520, 639]) {
        const g = row();
        g[at] = bad;
        expect(await isFound(g, tensors), `${bad} in the gap at ${at}`).toBe(false);
      }
    },
  );

  test('a tensor that begins elsewhere is refused', () => {
    expect(() => validOf([{ from: 4, n: 1 }])).toThrow('begins at 4');
  });
});

test('the scale grows after so many good steps and falls after an overflow', async () => {
  const [growth, backoff, interval] = [2, 0.25, 3];
  const found = [0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0];
  let [scale, good, skipped] = [8, 0, 0];
  const state = new Float32Array(scalerWords);
  state.set([scale, 0, 0, 0, growth, backoff, interval]);
  for (const flag of found) {
    if (flag === 1) [scale, good, skipped] = [scale * backoff, 0, skipped + 1];
    else if (++good === interval) [scale, good] = [scale * growth, 0];
    wordsOf(state)[scalerIndex.found] = flag;
    const after = await execute(gpu, { state }, (s) => scalerUpdate(gpu, { scaler: s.state }), [
      'state',
    ]);
    expect([...after.state]).toEqual([scale, good, 0, skipped, growth, backoff, interval, 0]);
    state.set(after.state);
  }
  expect(skipped).toBe(3);
});

/** Two parameters, of which one leaves a gap behind it, moved by the gradient of Σ c·a + Σ d·b with changing c and d. */
function problem(scaler: GradScaler | undefined) {
  const parameter = (n: number, seed: number) =>
    tensor(tape, Float32Array.from(randomData(n, seed)), [n], { requiresGrad: true });
  const [a, b] = [parameter(70, 1), parameter(33, 2)];
  gpu.join([a.storage, b.storage], 'parameters');
  const average = tensor(tape, new Float32Array(33), [33]);
  const ema = new Map([['b', average]]);
  const optimizer = new Adam(tape, [
    {
      params: [
        ['a', a],
        ['b', b],
      ],
      lr: 0.1,
      ema,
    },
  ]);
  const c = tensor(tape, new Float32Array(70), [70]);
  const d = tensor(tape, new Float32Array(33), [33]);
  const step = () => {
    const loss = add(sum(mul(c, a)), sum(mul(d, b)));
    const seed = scaler === undefined ? {} : { gradOutputs: [scaler.scale] };
    optimizer.step(grad([loss], [a, b], seed), { scaler });
    scaler?.update();
    return [loss.storage];
  };
  const state = async () => {
    const tensors: Tensor[] = [a, b, average, ...[...optimizer.namedState()].map(([, t]) => t)];
    return Promise.all(tensors.map(async (t) => [...(await t.read())]));
  };
  const set = (seed: number, factor = 1) => {
    c.set(Float32Array.from(randomData(70, seed), (x) => factor * x));
    d.set(Float32Array.from(randomData(33, seed + 1)));
  };
  return { step, state, set };
}

describe.each(['eager', 'replayed'] as const)('Adam with a scaler, %s', (mode) => {
  async function ready(scaler?: GradScaler) {
    const { step, ...rest } = problem(scaler);
    if (mode === 'eager') return { ...rest, step: () => void gpu.scope(step) };
    const program = await gpu.capture(step).build();
    return {
      ...rest,
      step: () => {
        program.run();
      },
    };
  }

  test('moves by the same bits as without, whatever power of two the scale is', async () => {
    const plain = await ready();
    const scaler = new GradScaler(tape, { initScale: 2 ** 20, growthInterval: 2 });
    const scaled = await ready(scaler);
    for (let i = 0; i < 5; i++) {
      for (const one of [plain, scaled]) {
        one.set(10 + 2 * i);
        one.step();
      }
      expect(await scaled.state()).toEqual(await plain.state());
    }
    expect(await scaler.state.read()).toMatchObject({ [scalerIndex.scale]: 2 ** 22 });
  });

  test('leaves out a step whose gradient overflows, and goes on with a smaller scale', async () => {
    const scaler = new GradScaler(tape, { initScale: 2 ** 126 });
    const one = await ready(scaler);
    one.set(20);
    one.step();
    const before = await one.state();
    one.set(30, 1e6);
    let skipped = 0;
    for (; skipped < 40; skipped++) {
      one.step();
      if (JSON.stringify(await one.state()) !== JSON.stringify(before)) break;
    }
    const [scale, , found, count] = await scaler.state.read();
    expect(skipped).toBeGreaterThan(5);
    expect([scale, found, count]).toEqual([2 ** (126 - skipped), 0, skipped]);
    expect((await one.state()).flat().every(Number.isFinite)).toBe(true);
  });
});

test('factors by which a scale would not move are refused', () => {
  expect(() => new GradScaler(tape, { growthFactor: 1 })).toThrow(RangeError);
  expect(() => new GradScaler(tape, { backoffFactor: 1 })).toThrow(RangeError);
  expect(() => new GradScaler(tape, { initScale: 0 })).toThrow(RangeError);
});
