// What each launch of a step is said to belong to: the part of the step, the phase, the module.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { passOf } from '../../src/gpu/storage.ts';
import type { Dispatch } from '../../src/gpu/storage.ts';
import { SelfAttention } from '../../src/nn/attention.ts';
import { Conv2d } from '../../src/nn/conv.ts';
import { Layer, Sequential } from '../../src/nn/module.ts';
import { SGD } from '../../src/optim/sgd.ts';
import { attention } from '../../src/ops/attention.ts';
import { square } from '../../src/ops/pointwise.ts';
import { mean, sum } from '../../src/ops/reduce.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { createGan, ganStep } from '../../src/train/gan.ts';
import { stepInputs } from '../../src/train/learner.ts';
import type { Gan } from '../../src/train/gan.ts';
import { HostRng } from '../../src/util/philox.ts';
import { openTestGpu } from '../support/device.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

function launchesOf(body: () => unknown, on: Gpu = gpu): readonly Dispatch[] {
  return on.capture(() => {
    body();
    return [];
  }).dispatches;
}

const unique = (values: readonly string[]) => [...new Set(values)].sort();
const config = resolveConfig({ data: 'none', preset: 'sagan-32-tiny', width: 8, batch: 2 });
/** The inputs of a step: grey images. */
function inputsOf(gan: Gan) {
  const inputs = stepInputs(gan);
  for (const { images } of inputs) images.set(new Uint32Array(images.size).fill(0x40c08020));
  return inputs;
}

describe('a GAN step', () => {
  const gan = createGan(tape, config);
  const inputs = inputsOf(gan);
  const launches = launchesOf(() => ganStep(gan, inputs));
  const layersOf = (pass: string) =>
    unique(launches.filter((d) => passOf(d.where) === pass).map((d) => d.where.layer));

  test('consists of six passes, and every launch has a layer', () => {
    expect(unique(launches.map((d) => passOf(d.where)))).toEqual([
      ...['D backward', 'D forward', 'D optimizer', 'G backward', 'G forward', 'G optimizer'],
    ]);
    expect(launches.filter((d) => d.where.layer === '')).toEqual([]);
  });

  test('is computed by modules with the paths of their weights in a checkpoint', () => {
    const modules = new Map(
      [gan.generator, gan.discriminator].flatMap((net) =>
        [...net.namedModules(net.path)].map(([path, module]) => [path, module] as const),
      ),
    );
    expect([...modules.keys()]).toContain('discriminator.main.0');
    for (const [path, module] of modules) expect(module.path).toBe(path);
    const others = ['images', 'noise', 'loss', 'Adam'];
    for (const { where } of launches) expect([...modules.keys(), ...others]).toContain(where.layer);
  });

  test('runs every convolution of both nets forward and backward', () => {
    const convolutions = [gan.generator, gan.discriminator].flatMap((net) =>
      [...net.namedParameters(`${net.path}.`)]
        .map(([key]) => /^(.*)\.weight_orig$/.exec(key)?.[1])
        .filter((path) => path !== undefined),
    );
    expect(convolutions.filter((path) => path.endsWith('query_conv'))).toHaveLength(2);
    const ofD = convolutions.filter((path) => path.startsWith('discriminator'));
    for (const path of convolutions) expect(layersOf('G forward')).toContain(path);
    for (const path of convolutions) expect(layersOf('G backward')).toContain(path);
    for (const path of ofD) expect(layersOf('D backward')).toContain(path);
    expect(layersOf('D backward').filter((path) => path.startsWith('generator'))).toEqual([]);
    expect(layersOf('D forward')).toContain('generator.main.0');
  });

  test('has its losses, noise, images and updates where they belong', () => {
    expect(layersOf('D forward')).toEqual(expect.arrayContaining(['images', 'noise', 'loss']));
    expect(layersOf('G forward')).toEqual(expect.arrayContaining(['noise', 'loss']));
    expect(layersOf('G forward')).not.toContain('images');
    for (const net of ['D', 'G']) {
      expect(layersOf(`${net} optimizer`)).toEqual(['Adam']);
      expect(layersOf(`${net} backward`)).toContain('loss');
    }
    const adam = launches.filter((d) => d.spec.name.startsWith('optim/'));
    expect(unique(adam.map((d) => d.where.phase))).toEqual(['optimizer']);
  });
});

describe('a convolution', () => {
  const conv = () => new Conv2d(tape, 2, 3, { rng: new HostRng(1), kernelSize: 3, padding: 1 });
  const x = tensor(tape, randomFloats(2 * 2 * 5 * 5, 1), [2, 2, 5, 5]);

  test('carries its path into its gradient and into the gradient of that', () => {
    const net = new Sequential(tape, [new Sequential(tape, [conv()])]);
    const path = 'sequential.0.0';
    const weight = net.parameters()[0]!;
    const launches = launchesOf(() => {
      const y = sum(square(net.forward(x)));
      const [first] = grad([y], [weight], { createGraph: true });
      grad([sum(square(first!))], [weight]);
    });
    const phases = launches.filter((d) => d.where.layer === path).map((d) => d.where.phase);
    expect(unique(phases)).toEqual(['backward', 'forward']);
    const conv2d = launches.filter((d) => d.spec.name.startsWith('conv/'));
    expect(conv2d.length).toBeGreaterThan(3);
    expect(unique(conv2d.map((d) => d.where.layer))).toEqual([path]);
  });

  test('that is on its own is called by its class', () => {
    const alone = conv();
    const launches = launchesOf(() => alone.forward(x));
    expect(unique(launches.map((d) => d.where.layer))).toEqual(['conv2d']);
  });

  test('has a path that an error in its forward pass does not leave behind', () => {
    const alone = conv();
    const wrong = tensor(tape, randomFloats(75, 1), [1, 3, 5, 5]);
    expect(() => alone.forward(wrong)).toThrow(RangeError);
    expect(gpu.where).toEqual({ scope: '', phase: 'forward', layer: '' });
  });
});

test('the second derivative of a fused op is marked with the module that ran it', () => {
  const block = new SelfAttention(tape, 8, { rng: new HostRng(2) });
  const x = tensor(tape, randomFloats(2 * 8 * 4 * 4, 3), [2, 8, 4, 4], { requiresGrad: true });
  const launches = launchesOf(() => {
    const [g] = grad([sum(block.forward(x))], [x], { createGraph: true });
    tape.gpu.within({ layer: 'penalty' }, () => grad([mean(square(g!))], block.parameters()));
  });
  expect(launches.length).toBeGreaterThan(20);
  const layers = unique(launches.map((d) => d.where.layer));
  expect(layers).toContain('selfAttention');
  expect(layers).toContain('selfAttention.query_conv');
});

test('gradients that begin or are absent are marked too', () => {
  const [x, y] = [1, 2].map((v) => tensor(tape, [v], [1], { requiresGrad: true }));
  const launches = launchesOf(() => {
    const loss = gpu.within({ layer: 'loss' }, () => square(x!));
    grad([loss], [x!, y!], { allowUnused: true });
  });
  expect(launches.filter((d) => d.spec.name === 'pointwise/fill').map((d) => d.where)).toEqual([
    { scope: '', phase: 'backward', layer: 'loss' },
    { scope: '', phase: 'backward', layer: '' },
  ]);
});

test('marks nest, the inner one wins, and what it leaves open comes from around', () => {
  const outer = gpu.within({ scope: 'D', layer: 'a' }, () =>
    gpu.within({ layer: 'b' }, () => gpu.where),
  );
  expect(outer).toEqual({ scope: 'D', phase: 'forward', layer: 'b' });
  expect(passOf(outer)).toBe('D forward');
  expect(passOf(gpu.where)).toBe('forward');
});

test('a layer hands its module every argument', () => {
  class Sum extends Layer {
    override forward(x: Tensor, y = x): Tensor {
      return attention(x, y, y);
    }
  }
  const [x, y] = [1, 2].map((seed) => tensor(tape, randomFloats(12, seed), [1, 3, 4]));
  const shapes = launchesOf(() => new Sum(tape).forward(x!, y)).flatMap((d) => d.storages);
  expect(shapes).toContain(y!.storage);
});

test('no mark changes a bit, eager or replayed', async () => {
  const run = async (mark: boolean) => {
    const own = createGan(tape, config);
    const inputs = inputsOf(own);
    let step = () => Object.values(ganStep(own, inputs));
    if (mark) {
      const inner = step;
      step = () => gpu.within({ scope: 'other', layer: 'elsewhere' }, inner);
    }
    const first = step();
    let last: readonly Tensor[] = [];
    const program = await gpu.capture(() => (last = step()).map((t) => t.storage)).build();
    program.run();
    const out: Float32Array[] = [];
    for (const t of [...first, ...last, ...own.discriminator.parameters()]) {
      out.push(await t.read());
    }
    program.destroy();
    return out;
  };
  expect(await run(true)).toEqual(await run(false));
});

test('plain gradient descent is marked as an update', () => {
  const w = tensor(tape, [1, 2], [2], { requiresGrad: true });
  const sgd = new SGD(tape, [{ params: [['w', w]] }]);
  const g = tensor(tape, [1, 1], [2]);
  const launches = launchesOf(() => {
    sgd.step([g]);
  });
  expect(unique(launches.map((d) => passOf(d.where)))).toEqual(['optimizer']);
  expect(unique(launches.map((d) => d.where.layer))).toEqual(['SGD']);
});
