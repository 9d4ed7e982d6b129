// Every rung of layer norm and of its gradients against the float64 loops; the op to second order.
import { describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import {
  layerNormBackwardLadder,
  layerNormForwardLadder,
  layerNormScaleGrads,
} from '../../src/kernels/layer-norm.ts';
import { layerNorm } from '../../src/ops/layer-norm.ts';
import { budget, f32, f64, sqrtAllowance, toF32 } from '../reference/naive.ts';
import {
  layerNorm as reference,
  layerNormBackward as referenceBackward,
} from '../reference/layer-norm.ts';
import { eachCase } from '../support/cases.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { leaf, randomInput } from '../support/ops.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

const shapes: readonly (readonly [rows: number, cols: number])[] = [
  [1, 1],
  [3, 2],
  [17, 64],
  [7, 13],
  [131, 36],
  [2, 1021],
];

function inputs([rows, cols]: readonly [number, number], far = 0) {
  const x = randomData(rows * cols, 1, far - 1, far + 1);
  const [gamma, beta] = [randomData(cols, 2), randomData(cols, 3)];
  return { x, gamma, beta, rows, cols, eps: 1e-5, dy: randomData(rows * cols, 4) };
}

/** What WGSL grants 1/√: relative, so of the largest result. */
const granted = (values: Float64Array) =>
  sqrtAllowance(values.reduce((m, v) => Math.max(m, Math.abs(v)), 0));

describe.each(layerNormForwardLadder.rungs)('$name', (rung) => {
  const run = async (given: ReturnType<typeof inputs>, tile?: (typeof tiles)[number]) => {
    const { x, gamma, beta, rows, cols, eps } = given;
    return execute(
      gpu,
      { x, gamma, beta, out: rows * cols, mean: rows, invStd: rows },
      (s) => {
        rung.run(gpu, { ...s, rows, cols, eps }, tile);
      },
      ['out', 'mean', 'invStd'],
    );
  };
  const tiles = rung.tiles(gpu, { rows: 4, cols: 4 });

  test('matches the float64 loops on every shape, in every tile, far from 0 too', async () => {
    for (const shape of shapes) {
      if (!rung.fits(gpu, { rows: shape[0], cols: shape[1] })) continue;
      for (const [far, tile] of [[0, tiles.at(-1)!] as const, [1000, tiles[0]!] as const]) {
        const given = inputs(shape, far);
        const [exact, naive] = [reference(given, f64), reference(given, f32)];
        const found = await run(given, tile);
        const what = `${rung.name} ${shape.join('×')} at ${far}`;
        for (const [key, own] of [
          ['y', found.out],
          ['mean', found.mean],
          ['invStd', found.invStd],
        ] as const) {
          const allowance = key === 'mean' ? 0 : granted(exact[key]);
          expectClose(
            own,
            exact[key],
            budget(exact[key], naive[key], { allowance }),
            `${what} ${key}`,
          );
        }
      }
    }
  });

  test('gives the same bits twenty times', async () => {
    await expectSameBits(() => run(inputs([9, 260])));
  });
});

describe.each(layerNormBackwardLadder.rungs)('the gradient of $name', (rung) => {
  test('matches the float64 loops on every shape, in every tile', async () => {
    for (const shape of shapes) {
      const [rows, cols] = shape;
      if (!rung.fits(gpu, { rows, cols })) continue;
      const { dy, ...given } = inputs(shape);
      const { mean, invStd } = reference(given, f64);
      const stats = { mean: toF32(mean), invStd: toF32(invStd) };
      const [exact, naive] = [referenceBackward(given, dy, f64), referenceBackward(given, dy, f32)];
      for (const tile of rung.tiles(gpu, { rows, cols })) {
        const { dx } = await execute(
          gpu,
          { x: given.x, gamma: given.gamma, dy, ...stats, dx: rows * cols },
          (s) => {
            rung.run(gpu, { ...s, rows, cols }, tile);
          },
          ['dx'],
        );
        // A row of one or two columns has no gradient left: what is off is off by its terms.
        const scale = invStd.reduce((m, s) => Math.max(m, s), 0);
        const what = `${rung.name} ${shape.join('×')} ${JSON.stringify(tile)}`;
        expectClose(dx, exact.dx, budget(exact.dx, naive.dx, { scale }), what);
      }
    }
  });
});

test('the gradients of scale and shift match the float64 loops, in parts and whole', async () => {
  for (const shape of [...shapes, [2000, 3] as const]) {
    const [rows, cols] = shape;
    const { dy, ...given } = inputs(shape);
    const { mean, invStd } = reference(given, f64);
    const stats = { mean: toF32(mean), invStd: toF32(invStd) };
    const found = await execute(
      gpu,
      { x: given.x, dy, ...stats, dgamma: cols, dbeta: cols },
      (s) => {
        layerNormScaleGrads(gpu, { ...s, rows, cols });
      },
      ['dgamma', 'dbeta'],
    );
    const [exact, naive] = [referenceBackward(given, dy, f64), referenceBackward(given, dy, f32)];
    for (const key of ['dgamma', 'dbeta'] as const) {
      const limit = budget(exact[key], naive[key], { scale: Math.sqrt(rows) });
      expectClose(found[key], exact[key], limit, `${key} ${shape.join('×')}`);
    }
  }
});

eachCase(tape)('the op', [
  {
    name: 'layerNorm of [2, 5, 12]',
    inputs: {
      x: randomInput([2, 5, 12], 5),
      gamma: randomInput([12], 6),
      beta: randomInput([12], 7),
    },
    op: ({ x, gamma, beta }) => layerNorm(x!, { weight: gamma!, bias: beta! }),
    forward: (d, r) => {
      const given = { x: d['x']!, gamma: d['gamma']!, beta: d['beta']! };
      const { y } = reference({ ...given, rows: 10, cols: 12, eps: 1e-5 }, r);
      return { shape: [2, 5, 12], data: y };
    },
    backward: (d, dy, r) => {
      const given = { x: d['x']!, gamma: d['gamma']!, beta: d['beta']! };
      const made = referenceBackward({ ...given, rows: 10, cols: 12, eps: 1e-5 }, dy, r);
      return { x: made.dx, gamma: made.dgamma, beta: made.dbeta };
    },
    // The statistics come out of the kernel here, and so does what WGSL grants its 1/√.
    allowance: 10 * sqrtAllowance(2),
  },
]);

test('a scale of another length is refused', () => {
  gpu.scope(() => {
    const [x, short, right] = [[2, 3], [2], [3]].map((s, i) => leaf(tape, randomInput(s, i)));
    expect(() => layerNorm(x!, { weight: short!, bias: right! })).toThrow(
      'layerNorm: weight is [2]; it must be [3], one number a column of [2, 3]',
    );
  });
});

test('no layer norm wrote outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
