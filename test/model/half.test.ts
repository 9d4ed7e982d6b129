// A training step in f16: activations and copies of weights are halves, sums and weights are not. Its results lie as near to the
// exact ones as those of a program that rounds every single operation to f16, or nearer.
import { beforeAll, describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { createGan, ganStep, watchedOf } from '../../src/train/gan.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { imageWords } from '../../src/train/capacity.ts';
import { bitsOfHalf, halfFromBits } from '../../src/util/half.ts';
import { loadGolden } from '../golden/load.ts';
import { budget, f64, maxAbs } from '../reference/naive.ts';
import type { Round } from '../reference/naive.ts';
import { runSmallSagan, type SaganRun } from '../reference/sagan.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { SmallSagan } from '../support/small-sagan.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const has16 = gpu.features.has('shader-f16');
const f16: Round = (x) => halfFromBits(bitsOfHalf(x));
const golden = loadGolden('sagan_step');
const lossScale = 256;

describe.skipIf(!has16)('a small SAGAN in f16', () => {
  let exact: SaganRun;
  let naive: SaganRun;
  beforeAll(() => {
    exact = runSmallSagan(golden, 1, f64);
    naive = runSmallSagan(golden, 1, f16);
  });

  test('images, scores, losses and every gradient of a step', async () => {
    const net = new SmallSagan(tape, golden, { precision: 'f16', lossScale });
    net.feed(0);
    const made = net.step();
    expect(made.fake.dtype).toBe('f16');
    const { fake, dReal, dFake, lossD, lossG } = made;
    expectClose(await fake.read(), exact.fake, budget(exact.fake, naive.fake), 'fake');
    expectClose(await dReal.read(), exact.dReal, budget(exact.dReal, naive.dReal), 'd_real');
    expectClose(await dFake.read(), exact.dFake, budget(exact.dFake, naive.dFake), 'd_fake');
    expectClose(await lossD.read(), exact.dLoss, budget(exact.dLoss, naive.dLoss), 'd_loss');
    expectClose(await lossG.read(), exact.gLoss, budget(exact.gLoss, naive.gLoss), 'g_loss');
    for (const [which, grads, ref, single] of [
      ['d', made.gradsD, exact.dGrads, naive.dGrads],
      ['g', made.gradsG, exact.gGrads, naive.gGrads],
    ] as const) {
      const module = which === 'd' ? net.discriminator : net.generator;
      const names = [...module.namedParameters()].map(([name]) => name);
      const scale = Math.max(...[...ref.values()].map(maxAbs));
      for (const [i, name] of names.entries()) {
        expect(grads[i]!.dtype, `${which} ${name}`).toBe('f32');
        const found = (await grads[i]!.read()).map((x) => x / lossScale);
        const limit = budget(ref.get(name)!, single.get(name)!, { scale });
        expectClose(found, ref.get(name)!, limit, `${which} ${name}`);
      }
    }
  });

  test('is really of f16: other values than in f32, and not far from them', async () => {
    const scores = async (precision: 'f16' | 'f32') => {
      const net = new SmallSagan(tape, golden, { precision });
      net.feed(0);
      return [...(await net.step().dReal.read())];
    };
    const [half, whole] = [await scores('f16'), await scores('f32')];
    const most = maxAbs(half.map((x, i) => x - whole[i]!)) / maxAbs(whole);
    expect(most).toBeGreaterThan(2 ** -16);
    expect(most).toBeLessThan(2 ** -6);
  });
});

describe('the training step of a config in f16', () => {
  const config = resolveConfig({
    ...{ data: 'none', preset: 'sagan-32-tiny', precision: 'f16' },
    ...{ imageSize: 16, width: 8, batch: 4, attentionG: [8], attentionD: [8] },
  });

  test.skipIf(has16)('is refused on a device without f16', () => {
    expect(() => createGan(tape, config)).toThrow('--precision f16 needs the feature shader-f16');
  });

  test.skipIf(!has16)('falls back from a loss scale that overflows, and then learns', async () => {
    const gan = createGan(tape, config);
    const words = imageWords(config, config.batch);
    const bytes = [tensor(tape, new Uint32Array(words).fill(0x40_80_c0_ff), [words])];
    const capture = gpu.capture(() => watchedOf(gan, ganStep(gan, bytes)));
    const program = await capture.build();
    const weights = async () => {
      const all = await Promise.all(gan.discriminator.parameters().map((p) => p.read()));
      return all.map((values) => [...values]);
    };
    const { state } = gan.scalers!.D;
    const tooLarge = (await state.read()).with(0, 2 ** 40);
    state.set(tooLarge);
    const before = await weights();
    program.run();
    expect(await weights()).toEqual(before);
    expect((await state.read())[0]).toBe(2 ** 39);
    for (let i = 0; i < 40; i++) program.run();
    const after = await weights();
    expect(after).not.toEqual(before);
    expect(after.flat().every(Number.isFinite)).toBe(true);
    const scale = (await state.read())[0]!;
    expect(scale).toBeLessThan(2 ** 39);
    expect(scale).toBeGreaterThan(1);
    program.destroy();
  });
});
