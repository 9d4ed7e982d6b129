// A training step in f16: activations and copies of weights are halves, sums and weights are not. Its results lie as near to the
// exact ones as those of a program that rounds every single operation to the eleven bits of f16, or nearer.
import { beforeAll, describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { createGan, ganStep } from '../../src/train/gan.ts';
import { stepInputs, watchedOf } from '../../src/train/learner.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { loadGolden } from '../golden/load.ts';
import { budget, f64, maxAbs } from '../reference/naive.ts';
import type { Data, Round } from '../reference/naive.ts';
import { runSmallSagan, type SaganRun } from '../reference/sagan.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { SmallSagan } from '../support/small-sagan.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const has16 = gpu.features.has('shader-f16');
/**
 * To the precision of f16, but not to its range: the eps of a norm is 0 in f16, and the naive program would divide by it. To
 * nearest or towards 0, as WGSL leaves open.
 */
const eleven =
  (whole: (steps: number) => number): Round =>
  (x) => {
    const step = 2 ** (Math.floor(Math.log2(Math.abs(x))) - 10);
    return x === 0 || !Number.isFinite(step) ? x : whole(x / step) * step;
  };
const golden = loadGolden('sagan_step');
const lossScale = 256;

describe.skipIf(!has16)('a small SAGAN in f16', () => {
  let exact: SaganRun;
  let naive: readonly SaganRun[];
  beforeAll(() => {
    exact = runSmallSagan(golden, 1, f64);
    naive = [Math.round, Math.trunc].map((whole) => runSmallSagan(golden, 1, eleven(whole)));
  });

  /** The budget of the naive program that comes off worse. */
  function limitOf(of: (run: SaganRun) => Data, scale?: number) {
    const budgets = naive.map((run) =>
      budget(of(exact), of(run), scale === undefined ? {} : { scale }),
    );
    return { abs: Math.max(...budgets.map(({ abs }) => abs)) };
  }

  test('images, scores, losses and every gradient of a step', async () => {
    const net = new SmallSagan(tape, golden, { precision: 'f16', lossScale });
    net.feed(0);
    const made = net.step();
    expect(made.fake.dtype).toBe('f16');
    const { fake, dReal, dFake, lossD, lossG } = made;
    const check = (found: Data, of: (run: SaganRun) => Data, what: string, scale?: number) => {
      expectClose(found, of(exact), limitOf(of, scale), what);
    };
    check(await fake.read(), (run) => run.fake, 'fake');
    check(await dReal.read(), (run) => run.dReal, 'd_real');
    check(await dFake.read(), (run) => run.dFake, 'd_fake');
    check(await lossD.read(), (run) => run.dLoss, 'd_loss');
    check(await lossG.read(), (run) => run.gLoss, 'g_loss');
    for (const [module, grads, key] of [
      [net.discriminator, made.gradsD, 'dGrads'],
      [net.generator, made.gradsG, 'gGrads'],
    ] as const) {
      const names = [...module.namedParameters()].map(([name]) => name);
      const scale = Math.max(...[...exact[key].values()].map(maxAbs));
      for (const [i, name] of names.entries()) {
        expect(grads[i]!.dtype, name).toBe('f32');
        const found = (await grads[i]!.read()).map((x) => x / lossScale);
        check(found, (run) => run[key].get(name)!, `${key} ${name}`, scale);
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
    const inputs = stepInputs(gan);
    for (const { images } of inputs) images.set(new Uint32Array(images.size).fill(0x40_80_c0_ff));
    const capture = gpu.capture(() => watchedOf(gan, ganStep(gan, inputs)));
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
