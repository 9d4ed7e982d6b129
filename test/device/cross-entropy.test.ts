// Every rung of cross-entropy against the float64 loops; the op against them and PyTorch, with what is left out.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { argmax as argmaxKernel } from '../../src/kernels/argmax.ts';
import { crossEntropyLadder, none } from '../../src/kernels/cross-entropy.ts';
import { crossEntropy } from '../../src/ops/cross-entropy.ts';
import { argmax } from '../../src/ops/reduce.ts';
import { crossEntropy as reference } from '../reference/cross-entropy.ts';
import {
  budget,
  f32,
  f64,
  logAllowance,
  maxAbs,
  softmaxAllowance,
  toF32,
} from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits, wordsOf } from '../support/execute.ts';
import { bitsOf, eagerly, leaf, replayed } from '../support/ops.ts';
import { randomData, uniform } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

function given(rows: number, classes: number, { reach = 4, smoothing = 0.1, ignore = 0 } = {}) {
  const logits = randomData(rows * classes, 1, -reach, reach);
  const next = uniform(2);
  const labels = Uint32Array.from({ length: rows }, () => Math.floor(next() * classes));
  return { logits, labels, rows, classes, smoothing, ignore };
}

const cases = [
  given(1, 1, { ignore: none }),
  given(5, 3),
  given(19, 14, { smoothing: 0 }),
  given(130, 7),
  given(3, 1000, { reach: 30 }),
  given(6, 65, { reach: 1e4, ignore: none }),
];

/** What WGSL grants exp and log in a row of logits. */
const granted = ({ logits, classes }: (typeof cases)[number]) =>
  softmaxAllowance(classes) + logAllowance(maxAbs(logits));

describe.each(crossEntropyLadder.rungs)('$name', (rung) => {
  const run = (c: (typeof cases)[number], tile?: (typeof tiles)[number]) => {
    const { logits, labels, rows } = c;
    return execute(
      gpu,
      { logits, labels, lse: rows, loss: rows },
      (s) => {
        rung.run(gpu, { ...c, ...s }, tile);
      },
      ['lse', 'loss'],
    );
  };
  const tiles = rung.tiles(gpu, { rows: 4, classes: 4 });

  test('matches the float64 loops on every shape, in every tile', async () => {
    for (const c of cases) {
      const [exact, naive] = [reference(c, f64), reference(c, f32)];
      for (const tile of tiles) {
        const found = await run(c, tile);
        for (const key of ['lse', 'loss'] as const) {
          const limit = budget(exact[key], naive[key], { allowance: granted(c) });
          const what = `${rung.name} ${c.rows}×${c.classes} ${JSON.stringify(tile)} ${key}`;
          expectClose(found[key], exact[key], limit, what);
        }
      }
    }
  });

  test('gives the same bits twenty times', async () => {
    await expectSameBits(() => run(cases[3]!));
  });
});

describe('the op', () => {
  const check = async (c: (typeof cases)[number]) => {
    const { labels, rows, classes } = c;
    const logits = leaf(tape, { shape: [rows, classes], data: toF32(c.logits) });
    const wanted = tensor(tape, labels, [rows]);
    const options = { labelSmoothing: c.smoothing, ignoreIndex: c.ignore };
    const body = () => {
      const loss = crossEntropy(logits, wanted, options);
      return [loss, ...grad([loss], [logits])];
    };
    const results = await eagerly(gpu, body);
    const [exact, naive] = [reference(c, f64), reference(c, f32)];
    const what = `${rows}×${classes}`;
    const scale = maxAbs(exact.loss);
    const limit = budget([exact.mean], [naive.mean], { scale, allowance: granted(c) });
    expectClose(results[0]!.data, [exact.mean], limit, `mean of ${what}`);
    const slack = { allowance: (granted(c) + softmaxAllowance(classes)) * exact.share };
    expectClose(results[1]!.data, exact.dx, budget(exact.dx, naive.dx, slack), `dx of ${what}`);
    expect(bitsOf(await replayed(gpu, body, 2))).toEqual(bitsOf(results));
    return results;
  };

  test('value and gradient are those of the float64 loops, eager and replayed', async () => {
    for (const c of cases) await check(c);
  });

  test('rows that are ignored, or have no class, are left out; without any the loss is 0', async () => {
    const c = given(4, 5, { ignore: 3 });
    const [loss] = await check({ ...c, labels: Uint32Array.of(1, 3, 5, 4) });
    const two = { ...c, rows: 2, labels: Uint32Array.of(1, 4) };
    const kept = [...c.logits.slice(0, 5), ...c.logits.slice(15)];
    const alone = reference({ ...two, logits: Float64Array.from(kept) }, f64).mean;
    expectClose(loss!.data, [alone], { abs: 1e-5 }, 'the mean of the two that count');
    const [empty, dx] = await check({ ...c, labels: Uint32Array.of(3, 3, 9, 3) });
    expect([...empty!.data, ...dx!.data]).toEqual(new Array(21).fill(0));
  });

  test('the second derivative is that of the softmax', async () => {
    // d²L/dx² along v is share·p∘(v − p·v): the label has no part in it.
    const x = leaf(tape, { shape: [1, 4], data: [0.5, -1, 2, 0.25] });
    const v = [1, -2, 0.5, 3];
    const [second] = await eagerly(gpu, () => {
      const labels = tensor(tape, Uint32Array.of(2), [1]);
      const loss = crossEntropy(x, labels, { labelSmoothing: 0.2 });
      const first = grad([loss], [x], { createGraph: true });
      return grad(first, [x], { gradOutputs: [tensor(tape, v, [1, 4])] });
    });
    const e = [0.5, -1, 2, 0.25].map(Math.exp);
    const p = e.map((a) => a / e.reduce((s, b) => s + b, 0));
    const dot = p.reduce((s, a, i) => s + a * v[i]!, 0);
    expectClose(
      second!.data,
      p.map((a, i) => a * (v[i]! - dot)),
      { abs: 1e-5 },
      'second',
    );
  });

  test('wrong shapes and smoothing are refused', () => {
    gpu.scope(() => {
      const logits = tensor(tape, new Float32Array(6), [2, 3]);
      const labels = tensor(tape, new Uint32Array(3), [3]);
      expect(() => crossEntropy(logits, labels)).toThrow(
        'crossEntropy: logits are [2, 3] and labels [3]; [rows, classes] and [rows] are needed',
      );
      const right = tensor(tape, new Uint32Array(2), [2]);
      expect(() => crossEntropy(logits, right, { labelSmoothing: 1.5 })).toThrow(
        'crossEntropy: labelSmoothing is 1.5; it must be 0 to 1',
      );
    });
  });
});

test('argmax is the first of the largest of each row', async () => {
  const x = Float32Array.of(1, 3, 3, -5, -7, -6, 0, 0, 0, 2, 4, 9);
  const { out } = await execute(
    gpu,
    { x, out: 4 },
    (s) => {
      argmaxKernel(gpu, { ...s, rows: 4, cols: 3 });
    },
    ['out'],
  );
  expect([...wordsOf(out)]).toEqual([1, 0, 0, 2]);
  const op = gpu.scope(
    () => argmax(tensor(tape, x, [2, 2, 3])),
    ({ storage }) => [storage],
  );
  expect(op.shape).toEqual([2, 2]);
  expect([...(await op.readU32())]).toEqual([1, 0, 0, 2]);
});

test('no kernel wrote outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
