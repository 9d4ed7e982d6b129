// Conditional batch norm: values and gradients against the float64 reference of batch norm, and what refuses it.
import { expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { conditionalBatchNorm } from '../../src/ops/conditional-norm.ts';
import type { Data } from '../reference/naive.ts';
import type { Round } from '../reference/naive.ts';
import { sqrtAllowance } from '../reference/naive.ts';
import { batchNorm, batchNormBackward } from '../reference/norm.ts';
import { eachCase } from '../support/cases.ts';
import { openTestGpu } from '../support/device.ts';
import { type Named, type OpCase, randomInput } from '../support/ops.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const each = eachCase(tape);

interface Sizes {
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
}

/** act(x̂·gain + bias) and its gradients, x̂ of the reference of a batch norm without scale and shift. */
function reference(norm: Sizes & { training: boolean }, d: Named, r: Round, relu: boolean) {
  const L = norm.H * norm.W;
  const running = runningOf(norm.C);
  const plain = { ...norm, ...running, x: d['x']! };
  const hat = batchNorm(plain, r).y;
  const linear = hat.map((v, i) => {
    const at = Math.floor(i / L);
    return r(r(v * d['gain']![at]!) + d['bias']![at]!);
  });
  const y = linear.map((v) => (relu ? Math.max(v, 0) : v));
  const backward = (dy: Data) => {
    const g = Float64Array.from(dy, (v, i) => (relu && linear[i]! <= 0 ? 0 : v));
    const sums = {
      gain: new Float64Array(d['gain']!.length),
      bias: new Float64Array(d['bias']!.length),
    };
    g.forEach((v, i) => {
      const at = Math.floor(i / L);
      sums.gain[at] = r(sums.gain[at]! + r(v * hat[i]!));
      sums.bias[at] = r(sums.bias[at]! + v);
    });
    const scaled = g.map((v, i) => r(v * d['gain']![Math.floor(i / L)]!));
    return { x: batchNormBackward(plain, scaled, r).dx, ...sums };
  };
  return { y, backward };
}

function runningOf(C: number) {
  return { runningMean: randomData(C, 5), runningVar: randomData(C, 6, 0.5, 2) };
}

each(
  'conditional batch norm',
  (
    [
      { N: 3, C: 2, H: 5, W: 3, mean: 0 },
      { N: 4, C: 5, H: 4, W: 4, mean: 10 },
      { N: 2, C: 67, H: 1, W: 1, mean: 0 },
    ] as const
  ).flatMap(({ mean: centre, ...sizes }) =>
    [true, false].flatMap((training) =>
      (training ? [true, false] : [true]).map((relu): OpCase => {
        const { N, C, H, W } = sizes;
        const shape = H * W === 1 ? [N, C] : [N, C, H, W];
        return {
          name: `${training ? 'training' : 'evaluation'} ${N}×${C}×${H}×${W} round ${centre}${relu ? ', relu' : ''}`,
          inputs: {
            x: randomInput(shape, 1, centre - 2, centre + 2),
            // Of both signs: nothing may divide by a gain.
            gain: randomInput([N, C], 2, -1.5, 1.5),
            bias: randomInput([N, C], 3),
          },
          op: ({ x, gain, bias }) => {
            const { runningMean, runningVar } = runningOf(C);
            return conditionalBatchNorm(x!, {
              ...{ gain: gain!, bias: bias!, training },
              runningMean: tensor(tape, Float32Array.from(runningMean), [C]),
              runningVar: tensor(tape, Float32Array.from(runningVar), [C]),
              activation: relu ? { name: 'relu' } : undefined,
            });
          },
          forward: (d, r) => ({ shape, data: reference({ ...sizes, training }, d, r, relu).y }),
          backward: (d, dy, r) => reference({ ...sizes, training }, d, r, relu).backward(dy),
          allowance: 4 * sqrtAllowance(4) * Math.sqrt(N * H * W),
          ...(training ? { halves: { inputs: ['x'] } } : {}),
        };
      }),
    ),
  ),
);

test('a scale that is not one of each image is refused', () => {
  const of = (...shape: number[]) =>
    tensor(tape, new Float32Array(shape.reduce((a, b) => a * b)), shape);
  const rest = { bias: of(2, 3), runningMean: of(3), runningVar: of(3), training: true };
  expect(() => conditionalBatchNorm(of(2, 3, 4, 4), { gain: of(3), ...rest })).toThrow(
    'conditionalBatchNorm: gain is [3]; it must be [2, 3]',
  );
  expect(() =>
    conditionalBatchNorm(of(2, 3, 4, 4), { gain: of(2, 3), ...rest, runningMean: of(4) }),
  ).toThrow('the layer has 4');
});
