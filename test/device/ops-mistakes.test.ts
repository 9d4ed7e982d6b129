// What the ops say about shapes that do not meet.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { attention } from '../../src/ops/attention.ts';
import { conv2d, convTranspose2d } from '../../src/ops/conv.ts';
import { embedding } from '../../src/ops/embedding.ts';
import { concat, expand, permute, reshape, slice, transpose } from '../../src/ops/layout.ts';
import { linear, matmul } from '../../src/ops/matmul.ts';
import { batchNorm } from '../../src/ops/norm.ts';
import * as pointwiseOps from '../../src/ops/pointwise.ts';
import { mean, sum } from '../../src/ops/reduce.ts';
import { avgPool2d, maxPool2d, resizeBilinear, upsampleNearest2x } from '../../src/ops/resample.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { openTestGpu } from '../support/device.ts';
import { count } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

describe('mistakes in shapes', () => {
  const of = (...shape: number[]) => tensor(tape, new Float32Array(count(shape)), shape);
  const index = tensor(tape, Uint32Array.of(0), [1]);
  const cases: [string, () => unknown, string][] = [
    [
      'add',
      () => pointwiseOps.add(of(2, 3), of(4)),
      'add: shapes [2, 3] and [4] do not broadcast: 3 ≠ 4 at axis -1',
    ],
    [
      'matmul, inner',
      () => matmul(of(2, 3), of(4, 5)),
      'matmul: A is [2, 3] and B is [4, 5]; the inner sizes must agree: 3 ≠ 4',
    ],
    [
      'matmul, transposed',
      () => matmul(of(2, 3), of(4, 5), { transA: true, transB: true }),
      'matmul: A is [2, 3]ᵀ and B is [4, 5]ᵀ; the inner sizes must agree: 2 ≠ 5',
    ],
    [
      'matmul, batch',
      () => matmul(of(2, 2, 3), of(3, 3, 5)),
      'matmul: shapes [2] and [3] do not broadcast: 2 ≠ 3 at axis -1',
    ],
    [
      'matmul, rank',
      () => matmul(of(3), of(3, 5)),
      'matmul: A is [3] and B is [3, 5]; both need two axes or more',
    ],
    [
      'attention, width',
      () => attention(of(4, 32, 1024), of(4, 24, 256), of(4, 32, 256)),
      'attention: query is [4, 32, 1024], key [4, 24, 256], value [4, 32, 256] (channel-major); query and key widths must agree: 32 ≠ 24',
    ],
    [
      'attention, length',
      () => attention(of(1, 4, 2), of(1, 5, 2), of(1, 6, 3), { layout: 'sequence' }),
      'attention: query is [1, 4, 2], key [1, 5, 2], value [1, 6, 3] (sequence-major); key and value lengths must agree: 5 ≠ 6',
    ],
    [
      'attention, batch',
      () => attention(of(1, 4, 2), of(2, 4, 2), of(2, 4, 2)),
      'the batches must agree',
    ],
    [
      'attention, rank',
      () => attention(of(4, 2), of(4, 2), of(4, 2)),
      'attention: query is [4, 2], key [4, 2], value [4, 2] (channel-major); each needs three axes',
    ],
    [
      'conv2d, channels',
      () => conv2d(of(1, 3, 8, 8), of(4, 2, 3, 3)),
      'conv2d: input is [1, 3, 8, 8] but weight is [4, 2, 3, 3]; the input channels must agree: 3 ≠ 2',
    ],
    [
      'conv2d, window',
      () => conv2d(of(1, 3, 2, 8), of(4, 3, 5, 3), { padding: 1 }),
      'conv2d: a 5×3 kernel does not fit into [1, 3, 2, 8] with padding 1, 1',
    ],
    [
      'conv2d, rank',
      () => conv2d(of(3, 8, 8), of(4, 3, 3, 3)),
      'conv2d: input is [3, 8, 8]; it must have four axes',
    ],
    [
      'conv2d, bias',
      () => conv2d(of(1, 3, 8, 8), of(4, 3, 3, 3), { bias: of(3) }),
      'conv2d: bias is [3]; it must be [4], one number an output channel',
    ],
    [
      'convTranspose2d, channels',
      () => convTranspose2d(of(1, 3, 8, 8), of(4, 2, 3, 3)),
      'convTranspose2d: input is [1, 3, 8, 8] but weight is [4, 2, 3, 3]; the input channels must agree: 3 ≠ 4',
    ],
    [
      'convTranspose2d, output',
      () => convTranspose2d(of(1, 3, 1, 1), of(3, 2, 2, 2), { padding: 1 }),
      'gives 0×0; sizes must be positive and outputPadding below the stride',
    ],
    [
      'convTranspose2d, bias',
      () => convTranspose2d(of(1, 3, 8, 8), of(3, 2, 4, 4), { bias: of(3) }),
      'convTranspose2d: bias is [3]; it must be [2], one number an output channel',
    ],
    [
      'conv2d, stride',
      () => conv2d(of(1, 3, 8, 8), of(4, 3, 3, 3), { stride: 0 }),
      'conv2d: stride is 0; it must be a whole number from 1',
    ],
    [
      'conv2d, one stride of two',
      () => conv2d(of(1, 3, 8, 8), of(4, 3, 3, 3), { stride: [1, 1.5] }),
      'conv2d: stride is 1.5; it must be a whole number from 1',
    ],
    [
      'conv2d, padding',
      () => conv2d(of(1, 3, 8, 8), of(4, 3, 3, 3), { padding: [1, -1] }),
      'conv2d: padding is -1; it must be a whole number from 0',
    ],
    [
      'convTranspose2d, stride',
      () => convTranspose2d(of(1, 3, 8, 8), of(3, 2, 4, 4), { stride: NaN }),
      'convTranspose2d: stride is NaN; it must be a whole number from 1',
    ],
    [
      'convTranspose2d, outputPadding',
      () => convTranspose2d(of(1, 3, 8, 8), of(3, 2, 4, 4), { outputPadding: -1 }),
      'convTranspose2d: outputPadding is -1; it must be a whole number from 0',
    ],
    [
      'softmax, no columns',
      () => softmax(of(2, 0)),
      'softmax: input is [2, 0]; it needs a last axis and at least one element',
    ],
    [
      'softmax, no axis',
      () => softmax(of()),
      'softmax: input is []; it needs a last axis and at least one element',
    ],
    [
      'linear',
      () => linear(of(3), of(4, 5)),
      'matmul: A is [1, 3] and B is [4, 5]ᵀ; the inner sizes must agree: 3 ≠ 5',
    ],
    [
      'batchNorm, weight',
      () =>
        batchNorm(of(2, 3), {
          ...{ weight: of(4), runningMean: of(3), runningVar: of(3), training: true },
        }),
      'batchNorm: weight is [4]; it must be [3], one number a channel',
    ],
    [
      'batchNorm, bias',
      () =>
        batchNorm(of(2, 3), {
          ...{ bias: of(1), runningMean: of(3), runningVar: of(3), training: false },
        }),
      'batchNorm: bias is [1]; it must be [3], one number a channel',
    ],
    [
      'batchNorm, channels',
      () => batchNorm(of(2, 3), { runningMean: of(4), runningVar: of(4), training: true }),
      'batchNorm: input is [2, 3] with 3 channels, the layer has 4',
    ],
    [
      'batchNorm, one value',
      () => batchNorm(of(1, 3, 1, 1), { runningMean: of(3), runningVar: of(3), training: true }),
      'batchNorm: one value a channel in [1, 3, 1, 1]; training needs two or more',
    ],
    [
      'batchNorm, rank',
      () => batchNorm(of(3), { runningMean: of(3), runningVar: of(3), training: true }),
      'batchNorm: input is [3]; it needs axes N and C',
    ],
    [
      'maxPool2d',
      () => maxPool2d(of(1, 1, 2, 2), 3),
      'maxPool2d: a window of 3 with stride 3 and padding 0 does not fit [1, 1, 2, 2]',
    ],
    [
      'avgPool2d',
      () => avgPool2d(of(1, 1, 2, 2), 2, { padding: 2 }),
      'avgPool2d: a window of 2 with stride 2 and padding 2 does not fit [1, 1, 2, 2]',
    ],
    [
      'maxPool2d, window',
      () => maxPool2d(of(1, 1, 4, 4), 0),
      'maxPool2d: window is 0; it must be a whole number from 1',
    ],
    [
      'maxPool2d, stride',
      () => maxPool2d(of(1, 1, 4, 4), 2, { stride: 0 }),
      'maxPool2d: stride is 0; it must be a whole number from 1',
    ],
    [
      'avgPool2d, stride',
      () => avgPool2d(of(1, 1, 4, 4), 2, { stride: 1.5 }),
      'avgPool2d: stride is 1.5; it must be a whole number from 1',
    ],
    [
      'avgPool2d, padding',
      () => avgPool2d(of(1, 1, 4, 4), 2, { padding: -1 }),
      'avgPool2d: padding is -1; it must be a whole number from 0',
    ],
    [
      'resize, height',
      () => resizeBilinear(of(1, 1, 2, 2), [0, 4]),
      'resizeBilinear: height is 0; it must be a whole number from 1',
    ],
    [
      'resize, width',
      () => resizeBilinear(of(1, 1, 2, 2), [4, 2.5]),
      'resizeBilinear: width is 2.5; it must be a whole number from 1',
    ],
    [
      'maxPool2d, rank',
      () => maxPool2d(of(2, 2), 2),
      'maxPool2d: input is [2, 2]; it must be [N, C, H, W]',
    ],
    [
      'upsample',
      () => upsampleNearest2x(of(2, 2)),
      'upsampleNearest2x: input is [2, 2]; it must be [N, C, H, W]',
    ],
    [
      'resize',
      () => resizeBilinear(of(2, 2), [4, 4]),
      'resizeBilinear: input is [2, 2]; it must be [N, C, H, W]',
    ],
    ['reshape', () => reshape(of(2, 3), [4, 2]), 'reshape: [2, 3] (6) does not fill [4, 2]'],
    [
      'reshape, open',
      () => reshape(of(2, 3), [4, -1]),
      'reshape: [2, 3] (6) does not fill [4, -1]',
    ],
    ['expand', () => expand(of(2, 3), [2, 4]), 'expand: [2, 3] cannot be expanded to [2, 4]'],
    [
      'permute',
      () => permute(of(2, 3), [0, 0]),
      'permute: [0, 0] is no order of the axes of [2, 3]',
    ],
    ['transpose', () => transpose(of(2, 3), 0, 2), 'axis 2 of [2, 3] does not exist'],
    ['slice', () => slice(of(2, 3), 1, 2, 2), 'slice: 2..4 is outside axis 1 of [2, 3]'],
    [
      'concat',
      () => concat([of(2, 3), of(3, 4)], 0),
      'concat: [3, 4] does not join [2, 3] along axis 0; the other sizes must agree',
    ],
    ['sum', () => sum(of(2, 3), [2]), 'reduce: axes [2] do not name distinct axes of [2, 3]'],
    [
      'mean',
      () => mean(of(2, 3), [1, -1]),
      'reduce: axes [1, -1] do not name distinct axes of [2, 3]',
    ],
    [
      'embedding, index',
      () => embedding(of(1), of(3, 4)),
      'embedding: table is [3, 4] and index is f32 [1]; a [classes, D] table and u32 indices are needed',
    ],
    [
      'embedding, table',
      () => embedding(index, of(3)),
      'embedding: table is [3] and index is u32 [1]; a [classes, D] table and u32 indices are needed',
    ],
    [
      'grad of many',
      () => grad([pointwiseOps.mul(tensor(tape, [1, 2], [2], { requiresGrad: true }), 2)], []),
      'grad: output 0 is [2]; only a single element has an implied gradient, pass gradOutputs',
    ],
    [
      'grad, upstream',
      () => grad([of(2)], [], { gradOutputs: [of(3)] }),
      'grad: gradOutputs[0] is [3] but the output is [2]',
    ],
  ];
  test.each(cases)('%s', (_name, body, message) => {
    expect(body).toThrow(message);
    expect(body).toThrow(RangeError);
  });
});

test('what the ops say about shapes that do not meet: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
