import { describe, expect, test } from 'vitest';
import { constOf } from '../../src/gpu/wgsl.ts';
import { sourceOf } from '../../src/kernels/kernel.ts';
import {
  adam,
  adamAdvance,
  hyperIndex,
  hyperWords,
  sgd,
  sgdAdvance,
} from '../../src/kernels/optim.ts';
import { adam as adamReference, ema, sgd as sgdReference } from '../reference/adam.ts';
import { budget, divideAllowance, f32, f64, maxAbs, sqrtAllowance } from '../reference/naive.ts';
import type { Round } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const steps = 5;
const sizes = [1, 3, 4, 257, 1031];

/** The kernel sees f32 hyper-parameters; the reference gets the same ones. */
const settings = {
  ...{ lr: Math.fround(2e-3), beta1: Math.fround(0.9), beta2: Math.fround(0.999) },
  ...{ eps: Math.fround(1e-8), weightDecay: Math.fround(0.01), emaDecay: Math.fround(0.99) },
  momentum: Math.fround(0.8),
};
type Settings = typeof settings;

function hyperOf(values: Partial<Settings>): Float32Array {
  const hyper = new Float32Array(hyperWords);
  for (const [name, value] of Object.entries({ ...settings, ...values })) {
    hyper[hyperIndex[name as keyof Settings]] = value;
  }
  hyper[hyperIndex.beta1Power] = 1;
  hyper[hyperIndex.beta2Power] = 1;
  return hyper;
}

function inputs(n: number) {
  const gradients = Array.from({ length: steps }, (_, i) => randomData(n, 100 + i));
  return { w: randomData(n, 1), gradients };
}

async function runAdam(n: number, values: Partial<Settings> = {}, average = true) {
  const { w, gradients } = inputs(n);
  const contents: Record<string, Float64Array | Float32Array> = {
    ...{ w, m: new Float32Array(n), v: new Float32Array(n), ema: w, hyper: hyperOf(values) },
  };
  gradients.forEach((g, i) => (contents[`g${i}`] = g));
  return execute(
    gpu,
    contents,
    (s) => {
      const state = { w: s['w']!, m: s['m']!, v: s['v']!, hyper: s['hyper']! };
      for (let i = 0; i < steps; i++) {
        adamAdvance(gpu, state);
        adam(gpu, { ...state, g: s[`g${i}`]!, ...(average ? { ema: s['ema']! } : {}), n });
      }
    },
    ['w', 'm', 'v', 'ema', 'hyper'],
  );
}

function adamSteps(n: number, values: Partial<Settings>, r: Round) {
  const { w, gradients } = inputs(n);
  const all = { ...settings, ...values };
  let state: ReturnType<typeof adamReference> = {
    ...{ p: w, m: new Float64Array(n), v: new Float64Array(n) },
  };
  let average = w;
  gradients.forEach((g, i) => {
    state = adamReference({ ...state, g, step: i + 1, ...all }, r);
    average = ema({ average, p: state.p, decay: all.emaDecay }, r);
  });
  return { ...state, average };
}

describe('adam', () => {
  test.each([
    { title: 'PyTorch’s defaults', values: {} },
    { title: 'SAGAN’s betas (0, 0.9)', values: { beta1: 0, beta2: Math.fround(0.9) } },
    { title: 'no weight decay', values: { weightDecay: 0 } },
    { title: 'an eps that weighs', values: { eps: Math.fround(0.1) } },
  ])('five steps with $title', async ({ values }) => {
    for (const n of sizes) {
      const found = await runAdam(n, values);
      const expected = adamSteps(n, values, f64);
      const naive = adamSteps(n, values, f32);
      // A step is lr·m̂/(√v̂ + eps) and |m̂|/√v̂ ≤ 1/√(1 − β₂) in the worst case; its function calls are granted
      // WGSL's rounding.
      const { lr, beta2 } = { ...settings, ...values };
      const largest = 1 / Math.sqrt(1 - beta2);
      const each = lr * (2 * divideAllowance(largest) + sqrtAllowance(largest));
      const allowance = steps * each;
      expectClose(found['w']!, expected.p, budget(expected.p, naive.p, { allowance }), `w ${n}`);
      expectClose(found['m']!, expected.m, budget(expected.m, naive.m), `m ${n}`);
      expectClose(found['v']!, expected.v, budget(expected.v, naive.v), `v ${n}`);
      const allowed = budget(expected.average, naive.average, { allowance });
      expectClose(found['ema']!, expected.average, allowed, `ema ${n}`);
    }
  });

  test('the first step goes lr against the sign of the gradient', async () => {
    const w = Float32Array.of(1, 1, 1, 1, 1);
    const g = Float32Array.of(0.5, -2, 1e-3, -1e-3, 100);
    const found = await execute(
      gpu,
      { w, g, m: new Float32Array(5), v: new Float32Array(5), hyper: hyperOf({ weightDecay: 0 }) },
      (s) => {
        adamAdvance(gpu, s);
        adam(gpu, { ...s, n: 5 });
      },
      ['w'],
    );
    const expected = Array.from(g, (v) => 1 - settings.lr * Math.sign(v));
    expectClose(found.w, expected, { abs: 1e-6 }, 'first step');
  });

  test('without an average the weights are the same and the average is left alone', async () => {
    const [plain, fused] = [await runAdam(257, {}, false), await runAdam(257)];
    expect(plain['w']).toEqual(fused['w']);
    expect(plain['ema']).toEqual(Float32Array.from(inputs(257).w));
  });

  test('the step count and the powers move on the GPU', async () => {
    const { hyper } = await runAdam(4);
    expect(hyper![hyperIndex.step]).toBe(steps);
    expect(hyper![hyperIndex.beta1Power]).toBeCloseTo(settings.beta1 ** steps, 6);
    expect(hyper![hyperIndex.beta2Power]).toBeCloseTo(settings.beta2 ** steps, 6);
    expect(hyper![hyperIndex.lr]).toBe(settings.lr);
  });

  test('gives the same bits twenty times', async () => {
    await expectSameBits(() => runAdam(1031));
  });
});

describe('sgd', () => {
  test.each([
    { title: 'plain', momentum: 0, nesterov: false },
    { title: 'with momentum', momentum: settings.momentum, nesterov: false },
    { title: 'Nesterov’s', momentum: settings.momentum, nesterov: true },
  ])('five steps, $title', async ({ momentum, nesterov }) => {
    for (const n of sizes) {
      const { w, gradients } = inputs(n);
      const contents: Record<string, Float64Array | Float32Array> = {
        ...{ w, buffer: new Float32Array(n), hyper: hyperOf({ momentum }) },
      };
      gradients.forEach((g, i) => (contents[`g${i}`] = g));
      const found = await execute(
        gpu,
        contents,
        (s) => {
          const hyper = s['hyper']!;
          for (let i = 0; i < steps; i++) {
            sgdAdvance(gpu, { hyper });
            const buffer = momentum === 0 ? {} : { momentum: s['buffer']! };
            sgd(gpu, { w: s['w']!, g: s[`g${i}`]!, hyper, ...buffer, n, nesterov });
          }
        },
        ['w', 'buffer', 'hyper'],
      );
      const run = (r: Round) => {
        let state: { p: Float64Array; buffer?: Float64Array } = { p: w };
        const { lr, weightDecay } = settings;
        gradients.forEach((g) => {
          state = sgdReference({ ...state, g, lr, weightDecay, momentum, nesterov }, r);
        });
        return state;
      };
      const [expected, naive] = [run(f64), run(f32)];
      expectClose(found['w']!, expected.p, budget(expected.p, naive.p), `w ${n}`);
      if (momentum !== 0) {
        const allowed = budget(expected.buffer!, naive.buffer!);
        expectClose(found['buffer']!, expected.buffer!, allowed, `buffer ${n}`);
      }
      expect(found['hyper']![hyperIndex.step]).toBe(steps);
    }
  });
});

test('the words of the hyper buffer are the same in TypeScript and WGSL', () => {
  for (const file of ['optim/adam.wgsl', 'optim/sgd.wgsl']) {
    const source = sourceOf(file);
    let seen = 0;
    for (const [name, index] of Object.entries(hyperIndex)) {
      const constant = name.replaceAll(/[A-Z]/g, '_$&').toUpperCase();
      if (!source.includes(`const ${constant} =`)) continue;
      expect(constOf(source, constant), `${constant} of ${file}`).toBe(index);
      seen++;
    }
    expect(seen).toBeGreaterThanOrEqual(4);
  }
  expect(maxAbs(Object.values(hyperIndex))).toBeLessThan(hyperWords);
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
