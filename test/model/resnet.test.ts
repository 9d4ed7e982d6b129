// The authors' SAGAN: sizes to the digit, the step's values and gradients against PyTorch's, what shortcuts see, f16, memory.
import { describe, expect, test } from 'vitest';
import { grad } from '../../src/autograd/tape.ts';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { openGpu } from '../../src/gpu/device.ts';
import type { GanOptions } from '../../src/models/gan.ts';
import { DownBlock } from '../../src/models/resnet-blocks.ts';
import { ResnetDiscriminator, ResnetGenerator, resnetPresets } from '../../src/models/resnet.ts';
import type { AttentionKind } from '../../src/nn/attention-kinds.ts';
import { initialisers } from '../../src/nn/init.ts';
import type { Module } from '../../src/nn/module.ts';
import { loadState } from '../../src/nn/state.ts';
import { leastBytes } from '../../src/train/capacity.ts';
import { createGan, ganStep } from '../../src/train/gan.ts';
import { stepInputs, watchedOf } from '../../src/train/learner.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { losses } from '../../src/train/losses.ts';
import { HostRng } from '../../src/util/philox.ts';
import { loadGoldenCases } from '../golden/load.ts';
import type { GoldenCase } from '../golden/load.ts';
import { maxAbs, softmaxAllowance, tanhAllowance, ulp } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

/** Counts and plans of memory need no arithmetic: Dawn's null backend holds nets of any width. */
async function paper<T>(use: (tape: Tape) => T | Promise<T>): Promise<T> {
  const own = await openGpu({ backend: 'null' });
  try {
    return await use(new Tape(own));
  } finally {
    own.close();
  }
}

describe('the authors’ SAGAN', () => {
  // Those of the released code, and those that StudioGAN logs of its 64 and 32 pixels.
  test.each([
    ['sagan-resnet-128', 1000, 42_078_852, 39_463_618],
    ['sagan-resnet-64', 200, 13_387_396, 19_752_642],
    ['sagan-resnet-32', 10, 4_386_308, 1_075_586],
  ] as const)('%s for %d classes has %d and %d parameters', async (preset, classes, ofG, ofD) => {
    await paper((on) => {
      const told = { conditional: true, classes };
      const config = resolveConfig({ data: 'x', preset, batch: 2, ...told });
      const gan = createGan(on, config, { blank: true });
      expect(gan.generator.parameterCount()).toBe(ofG);
      expect(gan.discriminator.parameterCount()).toBe(ofD);
      expect(leastBytes(config)).toBeLessThan(4 * (4 * ofG + 3 * ofD));
      expect(leastBytes(config)).toBeGreaterThan(0.5 * 4 * (4 * ofG + 3 * ofD));
      const { memory } = on.gpu.capture(() =>
        watchedOf(gan, ganStep(gan, stepInputs(gan, { empty: true }))),
      );
      expect(memory.plannedBytes).toBeGreaterThanOrEqual(memory.liveBytes);
      expect(memory.plannedBytes).toBeLessThan(memory.unplannedBytes / 2);
    });
  });

  test('untold of classes it has plain batch norms and no projection', () => {
    const options = { ...resnetPresets['sagan-resnet-32'], imageSize: 16, width: 2 };
    const keys = (net: Module) => [...net.stateDict().keys()];
    const told = { ...options, conditional: true, classes: 3 };
    const of = (o: GanOptions) => [
      ...keys(new ResnetGenerator(tape, o, new HostRng(1))),
      ...keys(new ResnetDiscriminator(tape, o, new HostRng(1))),
    ];
    const tables = /\.(gain|bias)\.weight$|^embed\./;
    expect(of(options).filter((key) => tables.test(key))).toEqual([]);
    const own = of(told).filter((key) => tables.test(key));
    expect(own).toHaveLength(2 * 2 * 2 + 3);
    expect(own).toContain('blocks.1.0.bn2.gain.weight');
    expect(own).toContain('embed.weight_orig');
  });
});

interface Params {
  readonly imageSize: number;
  readonly width: number;
  readonly latentSize: number;
  readonly classes: number;
  readonly attention: AttentionKind;
  readonly at: number;
}

function optionsOf({ at, classes, attention: kind, ...sizes }: Params): GanOptions {
  const attention = { attention: kind, attentionG: [at], attentionD: [at] };
  const fixed = { channels: 3, init: 'normal', slope: 0 } as const;
  return { ...sizes, ...attention, ...fixed, conditional: classes > 0, classes };
}

function load(module: Module, golden: GoldenCase<Params>, prefix: string): void {
  const own = [...golden.tensors]
    .filter(([key]) => key.startsWith(prefix))
    .map(([key, t]) => [key.slice(prefix.length), t] as const);
  loadState(module, new Map(own), `golden ${prefix}`);
}

describe.each(loadGoldenCases<Params>('resnet_step'))('$name nets', (golden) => {
  const options = optionsOf(golden.params);
  const given = (name: string, part?: number) => {
    const { shape, data } = golden.tensors.get(name)!;
    if (part === undefined) return tensor(tape, data, shape);
    const size = data.length / shape[0]!;
    return tensor(tape, data.slice(part * size, (part + 1) * size), shape.slice(1));
  };
  const classesOf = (name: string, part = 0) => {
    if (options.classes === 0) return undefined;
    const batch = golden.tensors.get('z')!.shape[1]!;
    const { data } = golden.tensors.get(name)!;
    return tensor(tape, Uint32Array.from(data.slice(part * batch, (part + 1) * batch)), [batch]);
  };

  test('images, scores, losses, every gradient and every buffer of a step are PyTorch’s', async () => {
    const G = new ResnetGenerator(tape, options, new HostRng(1));
    const D = new ResnetDiscriminator(tape, options, new HostRng(2));
    load(G, golden, 'g.start.');
    load(D, golden, 'd.start.');
    const found = new Map<string, Tensor>();
    const keep = (net: 'g' | 'd', loss: Tensor) => {
      const named = [...(net === 'g' ? G : D).namedParameters()];
      const gradients = grad(
        [loss],
        named.map(([, p]) => p),
      );
      named.forEach(([name], i) => found.set(`${net}.grad.${name}`, gradients[i]!));
      found.set(`${net}_loss`, loss);
    };
    const fake = tape.noGrad(() => G.forward(given('z', 0), classesOf('made')));
    const real = D.forward(given('real'), classesOf('labels'));
    const scored = D.forward(fake, classesOf('made'));
    found.set('fake', fake).set('d_real', real).set('d_fake', scored);
    keep('d', losses.hinge.discriminator(real, scored));
    const made = G.forward(given('z', 1), classesOf('made', 1));
    keep('g', losses.hinge.generator(D.forward(made, classesOf('made', 1))));
    for (const [prefix, net] of [
      ['g', G],
      ['d', D],
    ] as const) {
      for (const [name, value] of net.namedBuffers()) found.set(`${prefix}.after.${name}`, value);
    }

    const told = [...golden.tensors.keys()].filter((key) => key.startsWith('error.'));
    expect([...found.keys()].sort()).toEqual(told.map((key) => key.slice('error.'.length)).sort());
    // A gradient may be 0 but for rounding, of terms as large as the others'.
    const largest = (net: string) =>
      Math.max(
        ...[...found.keys()].filter((k) => k.startsWith(net)).map((k) => maxAbs(golden.get(k))),
      );
    const scales = { g: largest('g.grad.'), d: largest('d.grad.') };
    for (const [name, value] of found) {
      const wanted = golden.get(name);
      const own = maxAbs(wanted);
      const scale = name.includes('.grad.') ? scales[name[0] as 'g' | 'd'] : Math.max(own, 1);
      const [error] = golden.get(`error.${name}`);
      const allowance = tanhAllowance + softmaxAllowance(64) * scale;
      const abs = 2 * error! + 4 * ulp(scale) + allowance;
      expectClose(await value.read(), wanted, { abs }, name);
    }
  });
});

describe('a shortcut sees what came in, not what the ReLU made of it', () => {
  const rng = new HostRng(4);
  const init = initialisers.xavier;

  test('where the block keeps the shape, negative numbers come through unchanged, and their gradient', async () => {
    const block = new DownBlock(tape, 2, 2, { rng, init, down: false });
    // relu(x) is 0 everywhere, and so is the branch: its biases begin at 0.
    const values = Float32Array.from({ length: 32 }, (_u, i) => -1 - i);
    const x = tensor(tape, values, [1, 2, 4, 4], { requiresGrad: true });
    const y = block.forward(x);
    expect(await y.read()).toEqual(values);
    expect(await x.read()).toEqual(values);
    const dy = Float32Array.from({ length: 32 }, (_u, i) => i);
    const [dx] = grad([y], [x], { gradOutputs: [tensor(tape, dy, [1, 2, 4, 4])] });
    expect(await dx!.read()).toEqual(dy);
  });

  test('where it halves the image, the mean of negative numbers', async () => {
    const block = new DownBlock(tape, 1, 1, { rng, init, down: true });
    const values = Float32Array.from({ length: 16 }, (_u, i) => -1 - i);
    const y = await block.forward(tensor(tape, values, [1, 1, 4, 4])).read();
    // A 1×1 weight over its norm is 1 or −1.
    expect([...y].map(Math.abs)).toEqual([3.5, 5.5, 11.5, 13.5]);
  });
});

describe('the training step of a conditional config', () => {
  const config = resolveConfig({
    ...{ data: 'x', preset: 'sagan-resnet-32', imageSize: 16, width: 4, latentSize: 5, batch: 2 },
    ...{ attentionAt: [8], conditional: true, classes: 3 },
  });

  async function firstStep(precision: 'f32' | 'f16') {
    const gan = createGan(tape, { ...config, precision });
    const inputs = stepInputs(gan);
    for (const { images, labels } of inputs) {
      images.set(Uint32Array.from({ length: images.size }, (_u, i) => (i * 0x9e3779b1) >>> 0));
      labels?.set(Uint32Array.of(2, 0));
    }
    const { lossD, dReal, dFake } = ganStep(gan, inputs);
    // Not the generator's loss: Adam has moved D by then, by a gradient over its own size, however small.
    const values = [await lossD.item(), await dReal.item(), await dFake.item()];
    const weights = await Promise.all(gan.generator.parameters().map((p) => p.read()));
    return { values, finite: weights.every((w) => w.every(Number.isFinite)) };
  }

  test.skipIf(!gpu.features.has('shader-f16'))(
    'in f16 is near that in f32, and another',
    async () => {
      const [half, whole] = [await firstStep('f16'), await firstStep('f32')];
      expect([half.finite, whole.finite]).toEqual([true, true]);
      const apart = maxAbs(half.values.map((x, i) => x - whole.values[i]!));
      expect(apart).toBeGreaterThan(0);
      expect(apart).toBeLessThan(2 ** -6 * maxAbs(whole.values));
    },
  );

  test('is refused to nets that are told no classes', () => {
    const gan = createGan(tape, config);
    const [input] = stepInputs(gan);
    expect(() => ganStep(gan, [{ ...input!, labels: undefined }])).toThrow('labels are missing');
  });
});

test('the authors’ SAGAN wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
