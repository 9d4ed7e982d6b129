// Dropout: which elements the host's Philox says, the same in the gradient, others after a step, the same after a restore.
import { expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { dropout } from '../../src/ops/dropout.ts';
import { Rng } from '../../src/ops/random.ts';
import { square } from '../../src/ops/pointwise.ts';
import { philox4x32 } from '../../src/util/philox.ts';
import { openTestGpu } from '../support/device.ts';
import { eagerly, leaf, randomInput } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

/** The factors of n elements at a step: element i is lane i mod 4 of counter (i/4, stream, step, 0) under key 5. */
function factors(n: number, { p, stream, step }: { p: number; stream: number; step: number }) {
  return Float32Array.from({ length: n }, (_, i) => {
    const word = philox4x32([Math.floor(i / 4), stream, step, 0], [5, 0])[i % 4]!;
    return word < p * 2 ** 32 ? 0 : 1 / (1 - p);
  });
}

test.each([0.1, 0.5])('p = %d: value, gradient and second gradient have one mask', async (p) => {
  const rng = new Rng(tape, 5);
  const x = leaf(tape, randomInput([3, 7], 1));
  const ones = tensor(tape, new Float32Array(21).fill(1), [3, 7]);
  const results = await eagerly(gpu, () => {
    rng.begin();
    dropout(x, 0.3, rng);
    const y = dropout(x, p, rng);
    const first = grad([square(y)], [x], { gradOutputs: [ones], createGraph: true });
    return [y, ...first, ...grad(first, [x], { gradOutputs: [ones] })];
  });
  const f = factors(21, { p, stream: 1, step: 0 });
  const values = await x.read();
  const product = (...parts: Float32Array[]) =>
    // What is dropped is 0, not −0.
    parts.reduce((a, b) => a.map((v, i) => Math.fround(v * b[i]!) + 0));
  expect(results[0]!.data).toEqual(product(values, f));
  const two = new Float32Array(21).fill(2);
  expect(results[1]!.data).toEqual(product(product(values, f), two, f));
  expect(results[2]!.data).toEqual(product(two, f, f));
});

test('a replayed program draws anew each step, and the same after a restore', async () => {
  const rng = new Rng(tape, 5);
  const x = tensor(tape, new Float32Array(1001).fill(1), [1001]);
  let y = x;
  const capture = gpu.capture(() => {
    rng.begin();
    y = dropout(x, 0.25, rng);
    rng.advance();
    return [y.storage];
  });
  const program = await capture.build();
  const steps: Float32Array[] = [];
  for (const step of [0, 1, 2]) {
    program.run();
    steps.push(await y.read());
    expect(steps[step]).toEqual(factors(1001, { p: 0.25, stream: 0, step }));
  }
  rng.restore(1);
  program.run();
  expect(await y.read()).toEqual(steps[1]);
  const kept = steps[0]!.filter((v) => v > 0).length;
  // five standard deviations
  expect(Math.abs(kept - 750.75)).toBeLessThan(5 * Math.sqrt(1001 * 0.25 * 0.75));
  program.destroy();
});

test('no chance drops nothing; one of 1 is refused, and a gradient after the step', () => {
  gpu.scope(() => {
    const rng = new Rng(tape, 5);
    const x = leaf(tape, randomInput([5], 1));
    expect(dropout(x, 0, rng)).toBe(x);
    expect(() => dropout(x, 1, rng)).toThrow('dropout: p is 1; it must be from 0 to less than 1');
    const y = dropout(x, 0.5, rng);
    rng.advance();
    expect(() => grad([y], [x], { gradOutputs: [x] })).toThrow(
      'dropout: rng [4] was changed in place after it was used',
    );
  });
});

test('dropout wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
