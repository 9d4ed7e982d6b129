// Clips: attention over space and time, and a step of the GAN of clips, against PyTorch's 3-D layers; its presets; f16 and a
// penalty.
import { expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { empty, tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { openGpu } from '../../src/gpu/device.ts';
import type { GanOptions } from '../../src/models/gan.ts';
import { VideoDiscriminator, VideoGenerator, videoPresets } from '../../src/models/video.ts';
import { attentionKindNames, attentionOf } from '../../src/nn/attention-kinds.ts';
import { SelfAttention } from '../../src/nn/attention.ts';
import type { Module } from '../../src/nn/module.ts';
import { SpaceTimeAttention } from '../../src/nn/space-time.ts';
import { loadState } from '../../src/nn/state.ts';
import { leastBytes } from '../../src/train/capacity.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { createGan, ganStep } from '../../src/train/gan.ts';
import { stepInputs, watchedOf } from '../../src/train/learner.ts';
import { losses } from '../../src/train/losses.ts';
import { HostRng } from '../../src/util/philox.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { expAllowance, maxAbs, softmaxAllowance, tanhAllowance, ulp } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { bitsOf, eagerly, leaf, randomInput, replayed } from '../support/ops.ts';
import { secondBudget, secondOrder } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const rng = () => new HostRng(1);

test('attention over space and time: value, gradients, second gradients and map are PyTorch’s', async () => {
  const [golden] = loadGoldenCases<{ place: [number, number, number] }>('space_time_attention');
  const { tensors, get, params } = golden!;
  const make = () => {
    const block = new SpaceTimeAttention(tape, new SelfAttention(tape, 16, { rng: rng() }));
    const state = [...tensors].filter(([key]) => key.startsWith('block.'));
    loadState(block, new Map(state), 'golden');
    return block;
  };
  const block = make();
  const [x, dy] = [leaf(tape, tensors.get('x')!), leaf(tape, tensors.get('dy')!)];
  const body = (of: SpaceTimeAttention) => () => {
    const all = secondOrder(() => of.forward(x), [x, ...of.parameters()], dy);
    return [all.y, ...all.first, ...all.second, of.map(x, params.place)];
  };
  const results = await eagerly(gpu, body(block));
  const names = ['x', ...[...block.namedParameters()].map(([name]) => name)];
  const groups = [
    ['y'],
    names.map((name) => `grad.${name}`),
    [...names, 'dy'].map((name) => `second.${name}`),
    ['map'],
  ];
  const budgets = { terms: 2 * 24 * 16, allowance: softmaxAllowance(24) + expAllowance(8) };
  let at = 0;
  for (const keys of groups) {
    const limit = secondBudget(keys.map(get), budgets);
    for (const key of keys) {
      expect(results[at]!.shape, key).toEqual(tensors.get(key)!.shape);
      expectClose(results[at++]!.data, get(key), limit, key);
    }
  }
  expect(at).toBe(results.length);
  expect(bitsOf(await replayed(gpu, body(make())))).toEqual(bitsOf(results));
  expect(() => block.map(x, [3, 0, 0])).toThrow('frame 3 lies outside the clip of 3 frames');
  // A row of the next frame is none of this one's.
  expect(() => block.map(x, [0, 4, 0])).toThrow('query 4, 0 lies outside the map of 4 × 2');
});

test('images, scores, losses, every gradient and every buffer of a step are PyTorch’s', async () => {
  type Params = Pick<GanOptions, 'imageSize' | 'frames' | 'width' | 'latentSize' | 'channels'>;
  const [golden] = loadGoldenCases<Params & { slope: number }>('video_step');
  const options: GanOptions = {
    ...videoPresets['video-32-tiny'],
    ...golden!.params,
    ...{ attentionG: [8], attentionD: [8] },
  };
  const [G, D] = [
    new VideoGenerator(tape, options, rng()),
    new VideoDiscriminator(tape, options, rng()),
  ];
  const load = (module: Module, prefix: string) => {
    const own = [...golden!.tensors].filter(([key]) => key.startsWith(prefix));
    const state = new Map(own.map(([key, t]) => [key.slice(prefix.length), t]));
    loadState(module, state, `golden ${prefix}`);
  };
  load(G, 'g.start.');
  load(D, 'd.start.');
  const given = (name: string, part = 0, parts = 1) => {
    const { shape, data } = golden!.tensors.get(name)!;
    const size = data.length / parts;
    return tensor(tape, data.slice(part * size, (part + 1) * size), shape.slice(parts - 1));
  };
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
  const fake = tape.noGrad(() => G.forward(given('z', 0, 2)));
  const [real, scored] = [D.forward(given('real')), D.forward(fake)];
  found.set('fake', fake).set('d_real', real).set('d_fake', scored);
  keep('d', losses.hinge.discriminator(real, scored));
  keep('g', losses.hinge.generator(D.forward(G.forward(given('z', 1, 2)))));
  for (const [prefix, net] of Object.entries({ g: G, d: D })) {
    for (const [name, value] of net.namedBuffers()) found.set(`${prefix}.after.${name}`, value);
  }

  const told = [...golden!.tensors.keys()].filter((key) => key.startsWith('error.'));
  expect([...found.keys()].sort()).toEqual(told.map((key) => key.slice('error.'.length)).sort());
  // A gradient may be 0 but for rounding, of terms as large as the others'.
  const largest = (net: string) =>
    Math.max(
      ...[...found.keys()]
        .filter((key) => key.startsWith(`${net}.grad.`))
        .map((key) => maxAbs(golden!.get(key))),
    );
  const scales = { g: largest('g'), d: largest('d') };
  for (const [name, value] of found) {
    const wanted = golden!.get(name);
    const scale = name.includes('.grad.')
      ? scales[name[0] as 'g' | 'd']
      : Math.max(maxAbs(wanted), 1);
    const [error] = golden!.get(`error.${name}`);
    const abs = 2 * error! + 4 * ulp(scale) + tanhAllowance + softmaxAllowance(256) * scale;
    expectClose(await value.read(), wanted, { abs }, name);
  }
});

test('presets map latents to clips to scores, at the frames of every size; weights are counted', async () => {
  const own = await openGpu({ backend: 'null' });
  const on = new Tape(own);
  for (const [preset, options] of Object.entries(videoPresets)) {
    for (const frames of [2, 4, options.frames, options.imageSize / 2]) {
      const config = resolveConfig({ data: 'moving-shapes', preset, frames, init: 'normal' });
      const { generator: G, discriminator: D } = createGan(on, config, { blank: true });
      const capture = own.capture(() => {
        const clips = G.forward(empty(on, [2, options.latentSize]));
        expect(clips.shape).toEqual([2, 3, frames, 32, 32]);
        const scores = D.forward(clips);
        expect(scores.shape).toEqual([2, 1]);
        return [scores.storage];
      });
      expect(capture.memory.plannedBytes).toBeGreaterThan(0);
      const weights = 4 * (4 * G.parameterCount() + 3 * D.parameterCount());
      expect(leastBytes(config)).toBeLessThan(weights);
      expect(leastBytes(config)).toBeGreaterThan(0.5 * weights);
    }
  }
  own.close();
});

test('every kind of attention that has no neighbours is one over space and time', async () => {
  const x = leaf(tape, randomInput([2, 8, 2, 4, 4], 3));
  const kinds = attentionKindNames.filter((kind) => !['none', 'gate', 'class'].includes(kind));
  for (const attention of kinds) {
    const [block] = attentionOf({ attention }, tape, 8, { rng: rng() });
    const whole = new SpaceTimeAttention(tape, block!);
    const [y, map] = await eagerly(gpu, () => [whole.forward(x), whole.map(x, [1, 2, 3])]);
    expect(y!.shape).toEqual(x.shape);
    const side = attention === 'paper' ? 2 : 4;
    expect(map!.shape).toEqual([2, attention === 'multihead' ? 4 : 1, 2, side, side]);
  }
  expect(() => resolveConfig({ data: 'x', preset: 'video-32', attention: 'gate' })).toThrow(
    'run from frame to frame',
  );
});

test.each(['f32', 'f16'] as const)('two steps in %s, with a penalty', async (precision) => {
  if (precision === 'f16' && !gpu.features.has('shader-f16')) return;
  const sizes = { imageSize: 16, frames: 4, width: 8, batch: 2, init: 'normal' };
  const regularizer = precision === 'f32' ? 'gp' : 'r1';
  const preset = { data: 'none', preset: 'video-32-tiny', regularizer };
  const gan = createGan(tape, resolveConfig({ ...preset, ...sizes, precision }));
  // The first scales of losses in f16 overflow, and such a step is left out.
  for (const { state } of Object.values(gan.scalers ?? {})) {
    state.set((await state.read()).with(0, 256));
  }
  const inputs = stepInputs(gan);
  for (const { images } of inputs) images.set(new Uint32Array(images.size).fill(0x40_80_c0_ff));
  const weights = async () => {
    const all = [gan.generator, gan.discriminator].flatMap((net) => net.parameters());
    return Promise.all(all.map((p) => p.read()));
  };
  const before = await weights();
  const program = await gpu.capture(() => watchedOf(gan, ganStep(gan, inputs))).build();
  for (let i = 0; i < 2; i++) program.run();
  const after = await weights();
  program.destroy();
  expect(after.every((values) => values.every(Number.isFinite))).toBe(true);
  const moved = after.filter((values, i) => values.some((w, j) => w !== before[i]![j])).length;
  expect(moved).toBeGreaterThan(after.length / 2);
});

test('nothing wrote outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
