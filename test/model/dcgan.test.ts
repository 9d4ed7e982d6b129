// The DCGAN with attention of seed 000: a step's values and gradients against PyTorch's.
import { expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { DcganDiscriminator, DcganGenerator, dcganPresets } from '../../src/models/dcgan.ts';
import type { GanOptions } from '../../src/models/gan.ts';
import type { Module } from '../../src/nn/module.ts';
import { loadState } from '../../src/nn/state.ts';
import { losses } from '../../src/train/losses.ts';
import { HostRng } from '../../src/util/philox.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { maxAbs, softmaxAllowance, tanhAllowance, ulp } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
type Params = Pick<GanOptions, 'imageSize' | 'width' | 'latentSize' | 'slope'>;
const [golden] = loadGoldenCases<Params>('dcgan_step');

test('images, scores, losses, every gradient and every buffer of a step are PyTorch’s', async () => {
  const preset = dcganPresets['dcgan-attention'];
  const options: GanOptions = { ...preset, ...golden!.params, attentionG: [4], attentionD: [8] };
  const [G, D] = [
    new DcganGenerator(tape, options, new HostRng(1)),
    new DcganDiscriminator(tape, options, new HostRng(2)),
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
  keep('d', losses.bce.discriminator(real, scored));
  keep('g', losses.bce.generator(D.forward(G.forward(given('z', 1, 2)))));
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
    const abs = 2 * error! + 4 * ulp(scale) + tanhAllowance + softmaxAllowance(64) * scale;
    expectClose(await value.read(), wanted, { abs }, name);
  }
});
