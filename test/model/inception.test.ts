// The Inception net of FID against PyTorch, at full width on weights made by a formula: every stage on a small image of unequal
// sides, then features and probabilities of an image as the extractor is given one.
import { expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { inceptionOf } from '../../src/train/eval/inception.ts';
import { InceptionV3 } from '../../src/models/inception.ts';
import { loadState } from '../../src/nn/state.ts';
import { mean } from '../../src/ops/reduce.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { maxAbs } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { inceptionPixels, inceptionWeights } from '../support/inception.ts';
import { eagerly } from '../support/ops.ts';

const gpu = await openTestGpu();
const net = new InceptionV3(new Tape(gpu));
const shapes = [...net.stateDict()].map(([name, { shape }]) => [name, shape] as const);
const weights = inceptionWeights(new Map(shapes));
loadState(net, weights, 'made weights');

const cases = loadGoldenCases<{ salt: number; N: number; C: number; H: number; W: number }>(
  'inception',
);
const golden = (name: string) => cases.find((one) => one.name === name)!;
/**
 * Sums of up to 4032 products in f32, √4032·2⁻²⁴ of the largest value each, through 47 layers of which each adds a rounding of its
 * own, independent of the others'.
 */
const rounding = Math.sqrt(47 * 4032) * 2 ** -24;
const close = (found: ArrayLike<number>, exact: Float32Array, name: string) => {
  expectClose(found, exact, { abs: rounding * maxAbs(exact) }, name);
};

test('the keys and shapes are those of the file of FID', () => {
  const names = shapes.map(([name]) => name);
  expect(names).toHaveLength(94 * 5 + 2);
  expect(weights.get('Mixed_6b.branch7x7dbl_3.conv.weight')!.shape).toEqual([128, 128, 1, 7]);
  expect(weights.get('Mixed_7c.branch3x3_2b.bn.running_var')!.shape).toEqual([384]);
  expect(weights.get('fc.weight')!.shape).toEqual([1008, 2048]);
  // torchvision's, without the auxiliary output, has 1000 classes.
  expect(net.parameterCount()).toBe(23_834_568 + 8 * 2049);
});

test('every stage is PyTorch’s, on an image of unequal sides', async () => {
  const { params, get } = golden('odd');
  const { salt, N, C, H, W } = params;
  const pixels = inceptionPixels(N * C * H * W, salt);
  const x = tensor(
    net.tape,
    Float32Array.from(pixels, (p) => (2 * p) / 255 - 1),
    [N, C, H, W],
  );
  const names: string[] = [];
  const found = await eagerly(gpu, () =>
    net.tape.noGrad(() => {
      const stages: ReturnType<typeof mean>[] = [];
      const { features, logits } = net.forward(x, (key, y) => {
        names.push(`${key}.mean`);
        stages.push(mean(y, [2, 3]));
      });
      return [...stages, features, logits];
    }),
  );
  names.push('features', 'logits');
  expect(names).toHaveLength(18);
  found.forEach(({ data }, i) => {
    close(data, get(names[i]!), names[i]!);
  });
});

test('an image as an extractor is given it has PyTorch’s features and probabilities, grey or in colour', async () => {
  const extractor = inceptionOf(gpu, weights, { source: 'made weights', batch: 1 });
  expect(extractor).toMatchObject({ isInception: true, featureSize: 2048, classCount: 1008 });
  expect(extractor.weightsHash).toMatch(/^[0-9a-f]{64}$/);
  for (const name of ['image', 'grey']) {
    const { params, get, has } = golden(name);
    const { salt, N, C, H } = params;
    const bytes = inceptionPixels(N * C * H * H, salt);
    const seen = await extractor.features({ bytes, n: N, channels: C as 1 | 3, size: H });
    close(seen.features, get('features'), `features of ${name}`);
    if (has('probabilities')) close(seen.probabilities!, get('probabilities'), 'probabilities');
  }
  extractor.close();
});
