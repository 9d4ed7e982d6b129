// The whole public surface in one reading: tensors, ops, gradients, modules, an optimiser, a captured program, saved state.
import { expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { decodeSafetensors, encodeSafetensors } from '../../src/io/safetensors.ts';
import type { StoredTensor } from '../../src/io/safetensors.ts';
import { LeakyReLU } from '../../src/nn/activation.ts';
import { SelfAttention } from '../../src/nn/attention.ts';
import { Conv2d } from '../../src/nn/conv.ts';
import { Sequential } from '../../src/nn/module.ts';
import { loadState, readState } from '../../src/nn/state.ts';
import type { HostTensor } from '../../src/nn/state.ts';
import { spectralNorm } from '../../src/nn/weighted.ts';
import { Adam } from '../../src/optim/adam.ts';
import { add, mul, square, sub } from '../../src/ops/pointwise.ts';
import { Rng } from '../../src/ops/random.ts';
import { mean, sum } from '../../src/ops/reduce.ts';
import { HostRng } from '../../src/util/philox.ts';
import { openTestGpu } from '../support/device.ts';

test('a tour', async () => {
  // A device, and a tape on it that records what is computed.
  const gpu = await openTestGpu();
  const tape = new Tape(gpu);

  // Tensors and ops. Names, shapes and broadcasting are PyTorch's, in camelCase.
  const x = tensor(tape, [1, 2, 3, 4, 5, 6], [2, 3], { label: 'x', requiresGrad: true });
  const row = tensor(tape, [10, 20, 30], [3]);
  const y = sum(square(add(x, row)), [1]);
  expect(y.shape).toEqual([2]);
  expect([...(await y.read())]).toEqual([11 ** 2 + 22 ** 2 + 33 ** 2, 14 ** 2 + 25 ** 2 + 36 ** 2]);

  // Gradients, and gradients of gradients: d/dx (x + row)² = 2(x + row), and once more, of its square.
  const [dx] = grad([sum(y)], [x], { createGraph: true });
  expect([...(await dx!.read())]).toEqual([22, 44, 66, 28, 50, 72]);
  const [ddx] = grad([sum(square(dx!))], [x]);
  expect([...(await ddx!.read())]).toEqual([88, 176, 264, 112, 200, 288]);

  // Modules: a small critic with self-attention. Weights come from a seed; state-dict keys are PyTorch's.
  const rng = new HostRng(42);
  const build = () =>
    new Sequential(tape, [
      spectralNorm(new Conv2d(tape, 3, 8, { rng, kernelSize: 4, stride: 2, padding: 1 }), { rng }),
      new LeakyReLU(tape, 0.1),
      new SelfAttention(tape, 8, { rng }),
      new Conv2d(tape, 8, 1, { rng, kernelSize: 4 }),
    ]);
  const critic = build();
  expect([...critic.stateDict().keys()]).toContain('2.query_conv.weight');

  // One step: score noise, pull the scores towards 3, move the weights. Random numbers are made on the GPU.
  const noise = new Rng(tape, 7);
  const adam = new Adam(tape, [{ params: critic.namedParameters() }], { lr: 0.01 });
  const step = (): Tensor => {
    const scores = critic.forward(noise.normal([16, 3, 8, 8]));
    const loss = mean(square(sub(scores, 3)));
    adam.step(grad([loss], adam.parameters()));
    noise.advance();
    return loss;
  };

  // Eager, the step runs as it is called; a scope gives its memory back.
  const first = gpu.scope(step, (loss) => [loss.storage]);
  expect(await first.item()).toBeGreaterThan(1);

  // Captured, it is a program: planned memory, one submit a run, nothing made on the way.
  let loss: Tensor | undefined;
  const capture = gpu.capture(() => [(loss = step()).storage]);
  expect(capture.memory.plannedBytes).toBeLessThan(capture.memory.unplannedBytes);
  const program = await capture.build();
  const before = gpu.pool.stats();
  for (let i = 0; i < 60; i++) program.run();
  expect(gpu.pool.stats()).toEqual(before);
  expect(await loss!.item()).toBeLessThan(0.5 * (await first.item()));
  expect(program.flops).toBeGreaterThan(1e5);

  // In evaluation mode the power iteration rests, and without recording there is no history.
  const image = tensor(tape, new Float32Array(192).fill(0.5), [1, 3, 8, 8]);
  const score = tape.noGrad(() => critic.eval().forward(image));
  expect(score.requiresGrad).toBe(false);

  // Save as safetensors, load into a critic with other weights: the same score, bit for bit.
  const tensors = new Map<string, StoredTensor>();
  for (const [key, value] of await readState(critic)) tensors.set(key, { dtype: 'F32', ...value });
  const file = encodeSafetensors(tensors, { note: 'a tour' });
  const saved = decodeSafetensors(file, { name: 'tour.safetensors' });
  expect(saved.metadata).toEqual({ note: 'a tour' });
  const other = build();
  loadState(other, saved.tensors as Map<string, HostTensor>, 'tour.safetensors');
  const again = tape.noGrad(() => mul(other.eval().forward(image), 1));
  expect(await again.read()).toEqual(await score.read());
});
