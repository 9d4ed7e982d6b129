// Ten training steps of a small SAGAN against PyTorch's: losses, first gradients by name, final weights and buffers; and the
// same step captured, to the same bits.
import { beforeAll, describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { readState } from '../../src/nn/state.ts';
import { loadGolden } from '../golden/load.ts';
import { budget, f32, f64, maxAbs, tanhAllowance } from '../reference/naive.ts';
import { NOISE_BOUND, noiseDriven, runSmallSagan, type SaganRun } from '../reference/sagan.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { SmallSagan, type StepResult } from '../support/small-sagan.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const golden = loadGolden('sagan_step');
const data = (name: string) => golden.get(name)!.data;

interface Run {
  readonly dLoss: number[];
  readonly gLoss: number[];
  readonly first: Readonly<Record<'fake' | 'dReal' | 'dFake', Float32Array>>;
  readonly gradsD: Map<string, Float32Array>;
  readonly gradsG: Map<string, Float32Array>;
  readonly g: Map<string, { readonly data: Float32Array }>;
  readonly d: Map<string, { readonly data: Float32Array }>;
}

/** Ten steps, each eager in a scope of its own or a run of one program. */
async function tenSteps(mode: 'eager' | 'replayed'): Promise<Run> {
  const net = new SmallSagan(tape, golden);
  const storagesOf = (r: StepResult) =>
    [r.lossD, r.lossG, r.fake, r.dReal, r.dFake, ...r.gradsD, ...r.gradsG].map((t) => t.storage);
  let result: StepResult | undefined;
  const program =
    mode === 'replayed'
      ? await gpu.capture(() => storagesOf((result = net.step()))).build()
      : undefined;
  const names = (which: 'generator' | 'discriminator') =>
    [...net[which].namedParameters()].map(([name]) => name);
  const byName = async (keys: string[], tensors: readonly Tensor[]) => {
    const values = await Promise.all(tensors.map((t) => t.read()));
    return new Map(keys.map((key, i) => [key, values[i]!]));
  };
  const [dLoss, gLoss]: [number[], number[]] = [[], []];
  let first: Omit<Run, 'dLoss' | 'gLoss' | 'g' | 'd'> | undefined;
  for (let i = 0; i < 10; i++) {
    net.feed(i);
    if (program === undefined) result = gpu.scope(() => net.step(), storagesOf);
    else program.run();
    const { lossD, lossG, fake, dReal, dFake, gradsD, gradsG } = result!;
    dLoss.push(await lossD.item());
    gLoss.push(await lossG.item());
    first ??= {
      first: { fake: await fake.read(), dReal: await dReal.read(), dFake: await dFake.read() },
      gradsD: await byName(names('discriminator'), gradsD),
      gradsG: await byName(names('generator'), gradsG),
    };
    if (program === undefined) for (const s of storagesOf(result!)) gpu.release(s);
  }
  program?.destroy();
  const [g, d] = [await readState(net.generator), await readState(net.discriminator)];
  return { dLoss, gLoss, ...first!, g, d };
}

let exact: SaganRun;
let naive: SaganRun;
let eager: Run;
beforeAll(async () => {
  exact = runSmallSagan(golden, 10, f64);
  naive = runSmallSagan(golden, 10, f32);
  eager = await tenSteps('eager');
});

describe('a small SAGAN, built from modules, trained as PyTorch trains it', () => {
  test('images and scores of the first step', () => {
    const { fake, dReal, dFake } = eager.first;
    expectClose(
      fake,
      data('fake'),
      budget(exact.fake, naive.fake, { allowance: tanhAllowance }),
      'fake',
    );
    expectClose(dReal, data('d_real'), budget(exact.dReal, naive.dReal), 'd_real');
    expectClose(dFake, data('d_fake'), budget(exact.dFake, naive.dFake), 'd_fake');
  });

  test('losses of ten steps', () => {
    expectClose(eager.dLoss, data('d_loss'), budget(exact.dLoss, naive.dLoss), 'd_loss');
    expectClose(eager.gLoss, data('g_loss'), budget(exact.gLoss, naive.gLoss), 'g_loss');
  });

  test.each(['d', 'g'] as const)('every gradient of the first step of net %s, by name', (which) => {
    const [ref, single] =
      which === 'd' ? [exact.dGrads, naive.dGrads] : [exact.gGrads, naive.gGrads];
    const found = which === 'd' ? eager.gradsD : eager.gradsG;
    expect([...found.keys()].sort()).toEqual([...ref.keys()].sort());
    // The gradient of a bias before batch norm is 0 but for rounding: its terms are as large as the others'.
    const scale = Math.max(...[...ref.values()].map(maxAbs));
    for (const [name, values] of found) {
      const limit = budget(ref.get(name)!, single.get(name)!, { scale });
      expectClose(values, data(`${which}.grad.${name}`), limit, `${which} ${name}`);
    }
  });

  test.each(['d', 'g'] as const)('every weight and buffer of net %s after ten steps', (which) => {
    for (const [name, { data: values }] of eager[which]) {
      const [ref, single] = [exact[which].get(name)!, naive[which].get(name)!];
      // Adam divides a gradient by its own size: a bias without a gradient walks with the rounding.
      const noise = noiseDriven(which, name) ? NOISE_BOUND[which] : 0;
      const limit = budget(ref, single, { scale: Math.max(1, maxAbs(ref)), allowance: noise });
      expectClose(values, data(`${which}.final.${name}`), limit, `${which} ${name}`);
    }
  });

  test('its step captured gives the same bits, losses, gradients, weights and buffers', async () => {
    const replayed = await tenSteps('replayed');
    expect(replayed).toEqual(eager);
  });
});

test('the small SAGAN wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
