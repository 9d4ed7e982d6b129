// Every rung of softmax and its gradient against the float64 loops.
import { expect, test } from 'vitest';
import type { Tile } from '../../src/kernels/kernel.ts';
import {
  softmax,
  softmaxBackward,
  softmaxBackwardLadder,
  softmaxForwardLadder,
} from '../../src/kernels/softmax.ts';
import { budget, f32, f64, softmaxAllowance } from '../reference/naive.ts';
import {
  softmax as reference,
  softmaxBackward as referenceBackward,
} from '../reference/softmax.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { kept, randomHalves, storedOn } from '../support/half.ts';
import { randomData, randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const halves = storedOn(gpu).includes('f16');

const shapes: readonly (readonly [rows: number, cols: number])[] = [
  [1, 1],
  [1, 4],
  [3, 2],
  [7, 13],
  [17, 64],
  [2, 129],
  [131, 36],
  [5, 1021],
  [3, 1024],
];

function check(y: Float32Array, x: Float32Array, shape: readonly [number, number], what: string) {
  const [rows, cols] = shape;
  const ref = reference({ x, rows, cols }, f64);
  const naive = reference({ x, rows, cols }, f32);
  const allowance = softmaxAllowance(cols);
  expectClose(y, ref, budget(ref, naive, { allowance }), what);
}

for (const forward of softmaxForwardLadder.rungs) {
  const testOrSkip = test.skipIf(!forward.fits(gpu, { rows: 4, cols: 4 }));
  const run = async (x: Float32Array, [rows, cols]: readonly [number, number], tile?: Tile) => {
    const { out } = await execute(
      gpu,
      { x, out: rows * cols },
      (s) => {
        forward.run(gpu, { ...s, rows, cols }, tile);
      },
      ['out'],
    );
    return out;
  };

  testOrSkip(
    `${forward.name} matches the float64 loops on every shape, in every tile`,
    async () => {
      for (const shape of shapes) {
        const [rows, cols] = shape;
        if (!forward.fits(gpu, { rows, cols })) continue;
        const x = randomFloats(rows * cols, 3, -8, 8);
        for (const tile of forward.tiles(gpu, { rows, cols })) {
          const what = `${forward.name} ${shape.join('×')} ${JSON.stringify(tile)}`;
          check(await run(x, shape, tile), x, shape, what);
        }
      }
    },
  );

  testOrSkip(
    `${forward.name} takes logits of ±10,000, equal rows and one tall column`,
    async () => {
      const [rows, cols] = [6, 64];
      const x = randomFloats(rows * cols, 4, -1e4, 1e4);
      x.fill(1e4, 0, cols);
      x.fill(-1e4, cols, 2 * cols);
      x[2 * cols + 5] = 1e4;
      x[3 * cols] = -1e4;
      check(await run(x, [rows, cols]), x, [rows, cols], forward.name);
    },
  );

  testOrSkip(`${forward.name} gives the same bits twenty times`, async () => {
    const x = randomFloats(9 * 260, 7, -5, 5);
    await expectSameBits(async () => ({ out: await run(x, [9, 260]) }));
  });
}

for (const forward of softmaxForwardLadder.rungs) {
  test.skipIf(!halves || !forward.fits(gpu, { rows: 4, cols: 4 }))(
    `${forward.name} rounds to f16 once, on every shape`,
    async () => {
      for (const [rows, cols] of shapes) {
        const dims = { rows, cols, stored: 'f16' } as const;
        if (!forward.fits(gpu, dims)) continue;
        const n = rows * cols;
        const x = randomHalves(n, 3).map((v) => 8 * v);
        const { out } = await execute(
          gpu,
          { x: kept.f16.content(x), out: kept.f16.words(n) },
          (s) => {
            forward.run(gpu, { ...s, ...dims });
          },
          ['out'],
        );
        const ref = reference({ x, rows, cols }, f64);
        const float = budget(ref, reference({ x, rows, cols }, f32), {
          allowance: softmaxAllowance(cols),
        });
        const what = `${forward.name} ${rows}×${cols} of f16`;
        expectClose(kept.f16.values(out, n), ref, kept.f16.budget(float), what);
      }
    },
  );
}

for (const backward of softmaxBackwardLadder.rungs) {
  test.skipIf(!halves || !backward.fits(gpu, { rows: 4, cols: 4 }))(
    `the gradient of ${backward.name} rounds to f16 once, on every shape`,
    async () => {
      for (const [rows, cols] of shapes) {
        const dims = { rows, cols, stored: 'f16' } as const;
        if (!backward.fits(gpu, dims)) continue;
        const n = rows * cols;
        // Weights that f16 holds: a power of two of the columns share a row.
        const shared = 2 ** Math.floor(Math.log2(cols));
        const x = randomData(n, 5).map((_v, i) => (i % cols < shared ? 0 : -Infinity));
        const dy = randomHalves(n, 6);
        const { dx } = await execute(
          gpu,
          {
            y: kept.f16.content(reference({ x, rows, cols }, f64)),
            dy: kept.f16.content(dy),
            dx: kept.f16.words(n),
          },
          (s) => {
            backward.run(gpu, { ...s, ...dims });
          },
          ['dx'],
        );
        const ref = referenceBackward({ x, rows, cols }, dy, f64).dx;
        const naive = referenceBackward({ x, rows, cols }, dy, f32).dx;
        const float = budget(ref, naive, { scale: 1 });
        const what = `${backward.name} ${rows}×${cols} of f16`;
        expectClose(kept.f16.values(dx, n), ref, kept.f16.budget(float), what);
      }
    },
  );

  test.skipIf(!backward.fits(gpu, { rows: 4, cols: 4 }))(
    `the gradient of ${backward.name} matches the float64 loops on every shape, in every tile`,
    async () => {
      for (const [rows, cols] of shapes) {
        if (!backward.fits(gpu, { rows, cols })) continue;
        const x = randomFloats(rows * cols, 5, -3, 3);
        const dy = randomFloats(rows * cols, 6);
        const y = Float32Array.from(reference({ x, rows, cols }, f64));
        const ref = referenceBackward({ x, rows, cols }, dy, f64).dx;
        const naive = referenceBackward({ x, rows, cols }, dy, f32).dx;
        for (const tile of backward.tiles(gpu, { rows, cols })) {
          const { dx } = await execute(
            gpu,
            { y, dy, dx: rows * cols },
            (s) => {
              backward.run(gpu, { ...s, rows, cols }, tile);
            },
            ['dx'],
          );
          const what = `${backward.name} ${rows}×${cols} ${JSON.stringify(tile)}`;
          expectClose(dx, ref, budget(ref, naive, { scale: 1 }), what);
        }
      }
    },
  );
}

test('softmax takes more rows than a grid has places in one direction', async () => {
  const [rows, cols] = [70_000, 2];
  const x = randomFloats(rows * cols, 8);
  for (const forward of softmaxForwardLadder.rungs) {
    if (!forward.fits(gpu, { rows, cols })) continue;
    const { out } = await execute(
      gpu,
      { x, out: rows * cols },
      (s) => {
        forward.run(gpu, { ...s, rows, cols });
      },
      ['out'],
    );
    check(out, x, [rows, cols], forward.name);
  }
});

test('the softmax that the adapter gets is right in both directions', async () => {
  for (const cols of [37, 40]) {
    const rows = 11;
    const x = randomFloats(rows * cols, 9);
    const dy = randomFloats(rows * cols, 10);
    const { out, dx } = await execute(
      gpu,
      { x, dy, out: rows * cols, dx: rows * cols },
      (s) => {
        softmax(gpu, { x: s.x, out: s.out, rows, cols });
        softmaxBackward(gpu, { y: s.out, dy: s.dy, dx: s.dx, rows, cols });
      },
      ['out', 'dx'],
    );
    check(out, x, [rows, cols], `softmax of ${cols} columns`);
    const ref = referenceBackward({ x, rows, cols }, dy, f64).dx;
    const naive = referenceBackward({ x, rows, cols }, dy, f32).dx;
    // y comes out of the kernel here, so what WGSL grants its exp is in dx as well: |dx| ≤ y·2·max|dy|.
    const allowance = 2 * softmaxAllowance(cols);
    expectClose(dx, ref, budget(ref, naive, { allowance }), `gradient of ${cols} columns`);
  }
});

test('no softmax wrote outside its output', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
