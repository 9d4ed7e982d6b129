// The tape: how gradients meet, what has a history, what is launched.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { Adam } from '../../src/optim/adam.ts';
import { copyInto } from '../../src/ops/copy.ts';
import { attention } from '../../src/ops/attention.ts';
import { matmul } from '../../src/ops/matmul.ts';
import { batchNorm } from '../../src/ops/norm.ts';
import * as p from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { openTestGpu } from '../support/device.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

describe('tape', () => {
  const x = tensor(tape, [0.5, -1, 2], [3], { label: 'x', requiresGrad: true });
  const values = async (t: Tensor) => [...(await t.read())];

  test('gradients that meet are added', async () => {
    const y = p.add(p.mul(x, x), p.mul(x, 3));
    expect(await values(grad([sum(y)], [x])[0]!)).toEqual([4, 1, 7]);
  });

  test('outputs of several losses are added, each with its own upstream gradient', async () => {
    const [a, b] = [p.mul(x, 2), p.square(x)];
    const dy = tensor(tape, [1, 10, 100], [3]);
    const ones = tensor(tape, [1, 1, 1], [3]);
    const [g] = grad([a, b], [x], { gradOutputs: [dy, ones] });
    expect(await values(g!)).toEqual([3, 18, 204]);
  });

  test('the gradient by an intermediate result passes through it', async () => {
    const mid = p.mul(x, 2);
    const [byMid, byX] = grad([sum(p.square(mid))], [mid, x]);
    expect(await values(byMid!)).toEqual([2, -4, 8]);
    expect(await values(byX!)).toEqual([4, -8, 16]);
  });

  test('the same input asked for twice is answered twice', async () => {
    const [a, b] = grad([sum(p.square(x))], [x, x]);
    expect(await values(a!)).toEqual([1, -2, 4]);
    expect(await values(b!)).toEqual([1, -2, 4]);
  });

  test('what is detached or made under noGrad has no history', async () => {
    const y = p.add(p.square(x).detach(), x);
    expect(await values(grad([sum(y)], [x])[0]!)).toEqual([1, 1, 1]);
    const silent = tape.noGrad(() => p.square(x));
    expect(silent.requiresGrad).toBe(false);
    expect(silent.node).toBeUndefined();
    expect(tape.recording).toBe(true);
    expect(() =>
      tape.noGrad(() => {
        throw new Error('inside');
      }),
    ).toThrow('inside');
    expect(tape.recording).toBe(true);
  });

  test('an input that does not take part is an error, or zeros on request', async () => {
    const other = tensor(tape, [1, 2], [2], { label: 'other', requiresGrad: true });
    expect(() => grad([sum(x)], [other])).toThrow(
      'grad: input 0 (other) is not used by the outputs; pass allowUnused for zeros',
    );
    expect(await values(grad([sum(x)], [other], { allowUnused: true })[0]!)).toEqual([0, 0]);
  });

  test('a gradient nobody asks for is not launched', () => {
    const w = tensor(tape, new Float32Array(12), [4, 3], { requiresGrad: true });
    const input = tensor(tape, new Float32Array(6), [2, 3], { requiresGrad: true });
    const launches = (inputs: readonly Tensor[]) =>
      gpu.capture(() => {
        const y = sum(matmul(input, w, { transB: true }));
        return grad([y], inputs).map((t) => t.storage);
      }).dispatches.length;
    expect(launches([w])).toBe(launches([input]));
    expect(launches([w])).toBeLessThan(launches([w, input]));
  });

  test('a fused backward pass leaves out what nobody asks for, and gives the rest to the same bits', async () => {
    const make = (shape: number[], seed: number) =>
      tensor(
        tape,
        randomFloats(
          shape.reduce((a, b) => a * b),
          seed,
        ),
        shape,
        { requiresGrad: true },
      );
    const [q, k, v] = [make([2, 3, 8], 1), make([2, 3, 8], 2), make([2, 5, 8], 3)];
    const [x, weight, bias] = [make([4, 3, 6], 4), make([3], 5), make([3], 6)];
    const [runningMean, runningVar] = [tensor(tape, [0, 0, 0], [3]), tensor(tape, [1, 1, 1], [3])];
    const normed = () => batchNorm(x, { weight, bias, runningMean, runningVar, training: true });
    const cases = [
      { run: () => attention(q, k, v), inputs: [q, k, v] },
      { run: normed, inputs: [x, weight, bias] },
    ];
    for (const { run, inputs } of cases) {
      const gradients = (of: readonly Tensor[]) => grad([sum(p.square(run()))], of);
      const launches = (of: readonly Tensor[]) =>
        gpu.capture(() => gradients(of).map((t) => t.storage)).dispatches.length;
      const all = await Promise.all(gradients(inputs).map(values));
      for (const [i, input] of inputs.entries()) {
        expect(await values(gradients([input])[0]!)).toEqual(all[i]);
      }
      // Asked for the last input alone, the launch that makes the first one's gradient is not there.
      expect(launches(inputs.slice(-1))).toBeLessThan(launches(inputs));
    }
  });

  test.each([
    ['the host', (x: Tensor) => x.set(Float32Array.of(100))],
    ['a copy', (x: Tensor) => copyInto(x, tensor(tape, [100], [1]))],
    [
      'an optimiser',
      (x: Tensor) => new Adam(tape, [{ params: [['x', x]] }]).step([tensor(tape, [1], [1])]),
    ],
  ] as const)('a tensor that %s changes after its use gives no wrong gradient', (_who, change) => {
    const fresh = () => tensor(tape, [3], [1], { label: 'w', requiresGrad: true });
    const w = fresh();
    const y = p.square(w);
    change(w);
    expect(() => grad([y], [w])).toThrow(/^\w+: w \[1\] was changed in place after it was used/);
    // What backward does not read may change: the gradient of x + x needs no x.
    const free = fresh();
    const z = p.add(free, free);
    change(free);
    expect(grad([z], [free])).toHaveLength(1);
  });

  test('a graph of thousands of ops is walked without recursion', async () => {
    const [g] = gpu.scope(
      () => {
        let y: Tensor = x;
        for (let i = 0; i < 3000; i++) y = p.add(y, x);
        return grad([sum(y)], [x]);
      },
      ([t]) => [t!.storage],
    );
    expect(await values(g!)).toEqual([3001, 3001, 3001]);
  });

  test('third derivatives: x⁴ gives 24x', async () => {
    let y = sum(p.square(p.square(x)));
    for (let i = 0; i < 2; i++) y = sum(grad([y], [x], { createGraph: true })[0]!);
    expect(await values(grad([y], [x])[0]!)).toEqual([12, -24, 48]);
  });

  test('gradients without createGraph have no history of their own', () => {
    const [g] = grad([sum(p.square(x))], [x]);
    expect(g!.requiresGrad).toBe(false);
    const [h] = grad([sum(p.square(x))], [x], { createGraph: true });
    expect(h!.requiresGrad).toBe(true);
  });
});
