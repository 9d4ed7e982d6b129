// Ops that stand for several: against float64 loops, values, gradients and replay, and against their compositions of plain
// ops, gradients of gradients too.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { FloatType, Tensor } from '../../src/autograd/tensor.ts';
import { hingeLoss } from '../../src/ops/hinge.ts';
import { batchNorm } from '../../src/ops/norm.ts';
import { add, affine, mul, relu } from '../../src/ops/pointwise.ts';
import { mean } from '../../src/ops/reduce.ts';
import { residual } from '../../src/ops/residual.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { divideAllowance } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { eachCase } from '../support/cases.ts';
import { openTestGpu } from '../support/device.ts';
import { randomHalves } from '../support/half.ts';
import { checkOp, count, leaf, type OpCase, randomInput, replayed } from '../support/ops.ts';
import { secondBudget, secondOrder } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

eachCase(tape)(
  'residual',
  [[1], [2, 3], [5, 7, 3], [2, 8, 16, 16]].flatMap((shape) =>
    [true, false].map((learnt): OpCase => ({
      name: `${shape.join('×')}${learnt ? '' : ', gamma held still'}`,
      inputs: {
        o: randomInput(shape, 1),
        gamma: randomInput([1], 2),
        x: randomInput(shape, 3),
      },
      op: ({ o, gamma, x }) => residual(o!, gamma!, x!),
      forward: ({ o, gamma, x }, r) => ({
        shape,
        data: o!.map((v, i) => r(r(gamma![0]! * v) + x![i]!)),
      }),
      backward: ({ o, gamma }, dy, r) => ({
        o: o!.map((_v, i) => r(gamma![0]! * dy[i]!)),
        ...(learnt && { gamma: [o!.reduce((s, v, i) => r(s + r(v * dy[i]!)), 0)] }),
        x: Float64Array.from(dy),
      }),
      // held still, gamma is rounded to f16 before it multiplies
      halves: { inputs: ['o', 'x'], between: learnt ? 0 : 2 ** -10 },
    })),
  ),
);

describe('residual', () => {
  test('a gamma that nobody asks for costs nothing', () => {
    const [o, x] = [leaf(tape, randomInput([8], 1)), leaf(tape, randomInput([8], 2))];
    const gamma = leaf(tape, randomInput([1], 3));
    const launches = (wanted: readonly Tensor[]) =>
      gpu.capture(() => {
        const dy = tensor(tape, new Float32Array(8), [8]);
        grad([residual(o, gamma, x)], wanted, { gradOutputs: [dy] });
        return [];
      }).dispatches.length;
    expect([launches([o, gamma, x]), launches([o, x]), launches([x])]).toEqual([3, 2, 1]);
  });

  test('refuses shapes that differ and a gamma that is no number', () => {
    const [a, b] = [leaf(tape, randomInput([2, 3], 1)), leaf(tape, randomInput([3, 2], 1))];
    expect(() => residual(a, leaf(tape, randomInput([1], 1)), b)).toThrow(
      'residual: branch is [2, 3] but shortcut is [3, 2]; the shapes must agree',
    );
    expect(() => residual(a, b, a)).toThrow('residual: gamma is [3, 2]; it must be one number');
  });
});

describe('hinge loss', () => {
  test.each([
    [1, 1],
    [3, 5],
    [16, 16],
    [200, 67],
  ])('%i real and %i made', async (N, M) => {
    const side = (sign: number) => (v: number) => 1 + sign * v;
    await checkOp(tape, {
      name: `hinge ${N} ${M}`,
      inputs: { real: randomInput([N, 1], 1, -3, 3), fake: randomInput([M, 1], 2, -3, 3) },
      op: ({ real, fake }) => hingeLoss(real!, fake!),
      forward: ({ real, fake }, r) => {
        const over = (scores: Float64Array, sign: number) =>
          r(scores.reduce((s, v) => r(s + Math.max(r(side(sign)(v)), 0)), 0) / scores.length);
        return { shape: [], data: [r(over(real!, -1) + over(fake!, 1))] };
      },
      backward: ({ real, fake }, dy, r) => ({
        real: real!.map((v) => (v < 1 ? r(-dy[0]! / N) : 0)),
        fake: fake!.map((v) => (v > -1 ? r(dy[0]! / M) : 0)),
      }),
      allowance: divideAllowance(4),
    });
  });

  test('two launches, and NaN shows', async () => {
    const [real, fake] = [leaf(tape, randomInput([5], 1)), leaf(tape, randomInput([5], 2))];
    const capture = gpu.capture(() => {
      grad([hingeLoss(real, fake)], [real, fake]);
      return [];
    });
    expect(capture.dispatches.map((d) => d.spec.name)).toEqual([
      ...['reduce/hinge:loss', 'pointwise/fill', 'reduce/hinge:grad'],
    ]);
    expect(await hingeLoss(tensor(tape, [0, NaN], [2]), fake).item()).toBeNaN();
    expect(await hingeLoss(real, tensor(tape, [NaN, 0], [2])).item()).toBeNaN();
  });
});

describe('fused ops and their compositions', () => {
  const shape = [3, 4, 5];
  const cases: Record<string, { fused: () => Tensor; plain: () => Tensor; of: Tensor[] }> = {};
  const [o, x] = [leaf(tape, randomInput(shape, 1)), leaf(tape, randomInput(shape, 2))];
  const gamma = leaf(tape, randomInput([1], 3));
  cases['residual'] = {
    fused: () => residual(o, gamma, mul(x, o)),
    plain: () => add(mul(o, gamma), mul(x, o)),
    of: [o, gamma, x],
  };
  const [real, fake] = [leaf(tape, randomInput([7], 4, -3, 3)), leaf(tape, randomInput([9], 5))];
  cases['hinge loss'] = {
    fused: () => hingeLoss(mul(real, real), mul(fake, fake)),
    plain: () =>
      add(mean(relu(affine(mul(real, real), -1, 1))), mean(relu(affine(mul(fake, fake), 1, 1)))),
    of: [real, fake],
  };

  test.each(Object.entries(cases))('%s, twice differentiated', async (_name, check) => {
    const { fused, plain, of } = check;
    const { shape: result } = plain();
    const dy = leaf(tape, randomInput(result, 6));
    const all = (f: () => Tensor) => () => {
      const { y, first, second } = secondOrder(f, of, dy);
      return [y, ...first, ...second];
    };
    const [found, wanted] = [await replayed(gpu, all(fused)), await replayed(gpu, all(plain))];
    const limit = secondBudget(
      wanted.map(({ data }) => data),
      { terms: count(shape) },
    );
    found.forEach(({ data }, i) => {
      expectClose(data, wanted[i]!.data, limit, `result ${i}`);
    });
  });
});

describe.skipIf(!gpu.features.has('shader-f16'))('compositions of fused ops on f16', () => {
  const statistics = () => ({
    runningMean: tensor(tape, new Float32Array(4), [4]),
    runningVar: tensor(tape, new Float32Array(4), [4]),
  });
  const [gamma, weight, bias] = [[1], [4], [4]].map((shape, i) =>
    leaf(tape, randomInput(shape, 7 + i, 0.5, 1.5)),
  );
  const cases: Record<string, (x: Tensor) => Tensor> = {
    residual: (x) => residual(x, gamma!, mul(x, x)),
    softmax: (x) => softmax(x),
    'batch norm': (x) => batchNorm(x, { weight, bias, ...statistics(), training: true }),
  };
  const [x, dy] = [1, 2].map((seed) => ({ shape: [3, 4, 5], data: randomHalves(60, seed) }));

  test.each(Object.entries(cases))('%s, twice differentiated, as on f32', async (_name, f) => {
    const on = async (type: FloatType) => {
      const input = leaf(tape, x!, 'x', type);
      const upstream = leaf(tape, dy!, 'dy', type);
      const results = await replayed(gpu, () => {
        const { y, first, second } = secondOrder(() => f(input), [input], upstream);
        return [y, ...first, ...second];
      });
      expect(results.map((t) => t.dtype)).toEqual(results.map(() => type));
      return results;
    };
    const [found, wanted] = [await on('f16'), await on('f32')];
    // Each of the four passes rounds what goes in, what comes out and one thing between.
    const limit = secondBudget(
      wanted.map(({ data }) => data),
      { terms: 60, allowance: 4 * 3 * 2 ** -11 },
    );
    found.forEach(({ data }, i) => {
      expectClose(data, wanted[i]!.data, limit, `result ${i}`);
    });
  });
});

test('the fused ops wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
