// What is read of nets while they train: gammas, and the spectral norms of the layers by name.
import { expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { createGan, ganStep, reportedBy } from '../../src/train/gan.ts';
import { readingsOf, stepInputs } from '../../src/train/learner.ts';
import type { Reading } from '../../src/train/learner.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import type { Round } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu();

const tiny = { imageSize: 8, width: 2, batch: 2, latentSize: 3, attentionAt: [4] };

test('a step is read by name, and sigma is uᵀWv of what it normalised', async () => {
  const gan = createGan(
    new Tape(gpu),
    resolveConfig({ data: 'none', preset: 'sagan-32-tiny', ...tiny, lrD: 1e-30, lrG: 1e-30 }),
  );
  const inputs = stepInputs(gan);
  let readings: readonly Reading[] = [];
  const capture = gpu.capture(() => {
    readings = readingsOf(gan, ganStep(gan, inputs));
    return readings.map(({ of }) => of.storage);
  });
  const program = await capture.build();
  program.run();
  const values = new Map<string, number>();
  for (const { names, of } of readings) {
    const data = await of.read();
    names.forEach((name, i) => values.set(name, data[i]!));
  }
  const reports = reportedBy(gan.config);
  expect([...values.keys()].slice(0, reports.length)).toEqual([...reports]);
  let norms = 0;
  for (const net of ['generator', 'discriminator'] as const) {
    const state = gan[net].stateDict();
    const own = [...values.keys()].filter((name) => name.includes(`/${net}.`));
    const gammas = [...state.keys()].filter((key) => key.endsWith('.gamma'));
    const normalised = [...state.keys()].filter((key) => key.endsWith('.weight_orig'));
    expect(own.sort()).toEqual(
      [
        ...gammas.map((key) => `gamma/${net}.${key.slice(0, -'.gamma'.length)}`),
        ...normalised.map((key) => `sigma/${net}.${key.slice(0, -'.weight_orig'.length)}`),
      ].sort(),
    );
    expect(gammas).toHaveLength(1);
    for (const key of normalised) {
      const layer = key.slice(0, -'.weight_orig'.length);
      // The learning rate moves no weight by a bit: they are still what the last pass saw.
      const w = await state.get(key)!.read();
      const u = await state.get(`${layer}.weight_u`)!.read();
      const v = await state.get(`${layer}.weight_v`)!.read();
      const shape = state.get(key)!.shape;
      // A transposed convolution's rows are its second axis.
      const axis = u.length === shape[0] && v.length * u.length === w.length ? 0 : 1;
      const inner = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
      let scale = 0;
      const sigma = (r: Round) => {
        let sum = 0;
        scale = 0;
        for (let row = 0; row < u.length; row++) {
          for (let col = 0; col < v.length; col++) {
            const [a, b] = [Math.floor(col / inner), col % inner];
            const term = r(r(u[row]! * w[(a * u.length + row) * inner + b]!) * v[col]!);
            sum = r(sum + term);
            scale += Math.abs(term);
          }
        }
        return sum;
      };
      const [exact, naive] = [[sigma(f64)], [sigma(f32)]];
      const name = `sigma/${net}.${layer}`;
      expectClose([values.get(name)!], exact, budget(exact, naive, { scale }), name);
      norms++;
    }
  }
  expect(norms).toBeGreaterThan(8);
  program.destroy();
});
