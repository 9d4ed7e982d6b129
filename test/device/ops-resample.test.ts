// Pooling and enlarging: against the float64 references, values, gradients, and replay against eager.
import { expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { avgPool2d, maxPool2d, resizeBilinear, upsampleNearest2x } from '../../src/ops/resample.ts';
import {
  avgPool2d as avgPoolRef,
  avgPool2dBackward,
  maxPool2d as maxPoolRef,
  maxPool2dBackward,
  poolSize,
  type Pool,
} from '../reference/pool.ts';
import { bilinear, bilinearBackward, nearest, nearestBackward } from '../reference/resize.ts';
import { eachCase } from '../support/cases.ts';
import { openTestGpu } from '../support/device.ts';
import { type OpCase, randomInput } from '../support/ops.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const each = eachCase(tape);

const images = [
  { N: 1, C: 1, H: 4, W: 4 },
  { N: 2, C: 3, H: 5, W: 7 },
  { N: 16, C: 5, H: 4, W: 6 },
] as const;
const windows = [
  { kernel: 2, stride: 2, padding: 0 },
  { kernel: 3, stride: 2, padding: 1 },
  { kernel: 2, stride: 1, padding: 0 },
] as const;
const insideOnly: Omit<Pool, 'x'> = {
  ...{ N: 2, C: 3, H: 5, W: 6, kernel: [3, 3], stride: [1, 1], pad: [1, 1] },
  countIncludePad: false,
};
each(
  'pooling',
  (['max', 'avg'] as const).flatMap((kind) =>
    images.flatMap((sizes) =>
      windows.map(({ kernel, stride, padding }): OpCase => {
        const { N, C, H, W } = sizes;
        const geometry = {
          ...sizes,
          kernel: [kernel, kernel] as const,
          stride: [stride, stride] as const,
          pad: [padding, padding] as const,
        };
        const op = kind === 'max' ? maxPool2d : avgPool2d;
        const forward = kind === 'max' ? maxPoolRef : avgPoolRef;
        const backward = kind === 'max' ? maxPool2dBackward : avgPool2dBackward;
        const data = randomData(N * C * H * W, 1, -3, 3);
        return {
          name: `${kind} ${N}×${C}×${H}×${W} window ${kernel} stride ${stride} pad ${padding}`,
          // halves for max: windows have ties, and the first one wins
          inputs: {
            x: {
              shape: [N, C, H, W],
              data: kind === 'max' ? data.map((v) => Math.round(v)) : data,
            },
          },
          op: ({ x }) => op(x!, kernel, { stride, padding }),
          forward: ({ x }, r) => ({
            shape: [N, C, ...poolSize(geometry)],
            data: forward({ x: x!, ...geometry }, r),
          }),
          backward: ({ x }, dy, r) => ({ x: backward({ x: x!, ...geometry }, dy, r).dx }),
          halves: {},
        };
      }),
    ),
  ),
);
each('means over what lies inside', [
  {
    name: '2×3×5×6 window 3 stride 1 pad 1',
    inputs: { x: randomInput([2, 3, 5, 6], 7) },
    op: ({ x }) => avgPool2d(x!, 3, { stride: 1, padding: 1, countIncludePad: false }),
    forward: ({ x }, r) => ({ shape: [2, 3, 5, 6], data: avgPoolRef({ x: x!, ...insideOnly }, r) }),
    backward: ({ x }, dy, r) => ({ x: avgPool2dBackward({ x: x!, ...insideOnly }, dy, r).dx }),
    halves: {},
  },
]);
each(
  'enlarging',
  images.flatMap((sizes): OpCase[] => {
    const { N, C, H, W } = sizes;
    const input = { x: randomInput([N, C, H, W], 1) };
    return [
      {
        name: `nearest ${N}×${C}×${H}×${W} twofold`,
        inputs: input,
        op: ({ x }) => upsampleNearest2x(x!),
        forward: ({ x }, r) => ({
          shape: [N, C, 2 * H, 2 * W],
          data: nearest({ x: x!, ...sizes }, r),
        }),
        backward: ({ x }, dy, r) => ({ x: nearestBackward({ x: x!, ...sizes }, dy, r).dx }),
        halves: {},
      },
      ...(
        [
          [2 * H, 2 * W],
          [3, 11],
          [1, 1],
          [H, W],
        ] as const
      ).map(([P, Q]): OpCase => ({
        name: `bilinear ${N}×${C}×${H}×${W} to ${P}×${Q}`,
        inputs: input,
        op: ({ x }) => resizeBilinear(x!, [P, Q]),
        forward: ({ x }, r) => ({
          shape: [N, C, P, Q],
          data: bilinear({ x: x!, ...sizes, P, Q }, r),
        }),
        backward: ({ x }, dy, r) => ({ x: bilinearBackward({ x: x!, ...sizes, P, Q }, dy, r).dx }),
        halves: {},
      })),
    ];
  }),
);

test('pooling and enlarging: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
