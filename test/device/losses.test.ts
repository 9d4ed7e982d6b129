// Every adversarial loss against PyTorch's value and the reference's gradient of each score, of scores of ±1000 too.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { losses } from '../../src/train/losses.ts';
import type { GanLoss, LossName } from '../../src/train/losses.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { ganLosses } from '../reference/losses.ts';
import { budget, type Data, divideAllowance, expAllowance, f32, f64 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { bitsOf, eagerly, leaf, replayed } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

const cases = loadGoldenCases<{ loss: LossName; smoothing: number }>('losses');

/** What WGSL grants the exp in softplus(±x) and σ(±x), and the division whose quotient has a size. */
const granted = (x: number, size: number) =>
  expAllowance(Math.abs(x), Math.exp(-Math.abs(x))) + divideAllowance(size);

describe.each(cases)('$name', ({ params, get, tensors }) => {
  const scores = { ...params, real: get('real'), fake: get('fake') };
  const [exact, naive] = [ganLosses(scores, f64), ganLosses(scores, f32)];
  const keys = ['dReal', 'dFake', 'gFake'] as const;
  const ofKey = (key: (typeof keys)[number]) => (key === 'dReal' ? scores.real : scores.fake);

  /** Score by score: a slope of 10⁻²² is to be as right, relatively, as one of 1. */
  const expectSlopes = (found: Data, key: (typeof keys)[number]) => {
    const x = ofKey(key);
    x.forEach((score, i) => {
      const [slope, single] = [exact[key][i]!, naive[key][i]!];
      const quotient = Math.max(Math.abs(slope * x.length), params.smoothing);
      const limit = budget([slope], [single], { allowance: granted(score, quotient) / x.length });
      expectClose([found[i]!], [slope], limit, `${key} of a score of ${score}`);
    });
  };

  test('value and gradients, eager and replayed', async () => {
    const real = leaf(tape, tensors.get('real')!, 'real');
    const fake = leaf(tape, tensors.get('fake')!, 'fake');
    const loss: GanLoss = losses[params.loss];
    expect(loss.smooths || params.smoothing === 0).toBe(true);
    const body = () => {
      const d = loss.discriminator(real, fake, params.smoothing);
      const g = loss.generator(fake);
      return [d, g, ...grad([d], [real, fake]), ...grad([g], [fake])];
    };
    const results = await eagerly(gpu, body);
    for (const [i, key] of (['d', 'g'] as const).entries()) {
      expect(results[i]!.shape).toEqual([]);
      const allowance = Math.max(...[...scores.real, ...scores.fake].map((x) => granted(x, 1)));
      const limit = budget([exact[key]], [naive[key]], { scale: exact.scale, allowance });
      expectClose(results[i]!.data, get(key), limit, key);
    }
    for (const [i, key] of keys.entries()) expectSlopes(results[2 + i]!.data, key);
    expect(bitsOf(await replayed(gpu, body, 2))).toEqual(bitsOf(results));
  });
});

test('losses: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
