// The variational autoencoder with attention: its losses and their gradients against PyTorch's, and its step in f16.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import type { Net } from '../../src/models/gan.ts';
import { loadState } from '../../src/nn/state.ts';
import type { Checkpoint } from '../../src/train/checkpoint.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { stepInputs } from '../../src/train/learner.ts';
import { requireReconstruction } from '../../src/train/reconstruct.ts';
import { createVae, lossesOf, vaeStep } from '../../src/train/vae.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { maxAbs, softmaxAllowance, tanhAllowance, ulp } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const small = { data: 'none', preset: 'vae-32-tiny', attentionAt: [8] };

describe('against PyTorch', () => {
  test.each(loadGoldenCases('vae'))(
    '$name: moments, images, losses and every gradient',
    async (golden) => {
      const classes = Number(golden.params['classes']);
      const config = resolveConfig({ ...small, ...golden.params, conditional: classes > 0 });
      const vae = createVae(tape, config, { blank: true });
      const nets: Record<string, Net> = { encoder: vae.encoder, generator: vae.generator };
      for (const [name, net] of Object.entries(nets)) {
        const prefix = `${name}.start.`;
        const own = [...golden.tensors].filter(([key]) => key.startsWith(prefix));
        loadState(net, new Map(own.map(([key, t]) => [key.slice(prefix.length), t])), prefix);
      }
      const given = (name: string) => {
        const { shape, data } = golden.tensors.get(name)!;
        return tensor(tape, data, shape);
      };
      const labels = golden.has('labels')
        ? tensor(tape, Uint32Array.from(golden.get('labels')), [golden.get('labels').length])
        : undefined;
      const [x, noise] = [given('x'), given('noise')];
      const losses = lossesOf(vae, x, { noise, labels });
      const found = new Map<string, Tensor>(Object.entries(losses));
      const named = Object.entries(nets).flatMap(([name, net]) =>
        [...net.namedParameters()].map(([key, p]) => [`${name}.grad.${key}`, p] as const),
      );
      const gradients = grad(
        [losses.loss],
        named.map(([, p]) => p),
      );
      named.forEach(([name], i) => found.set(name, gradients[i]!));
      found.set('moments', vae.encoder.forward(x, labels));
      found.set('images', vae.generator.forward(given('z'), labels));

      const told = [...golden.tensors.keys()].filter((key) => key.startsWith('error.'));
      expect([...found.keys(), 'z'].sort()).toEqual(
        told.map((key) => key.slice('error.'.length)).sort(),
      );
      // A gradient may be 0 but for rounding, of terms as large as the others'.
      const largest = Math.max(...named.map(([name]) => maxAbs(golden.get(name))));
      for (const [name, value] of found) {
        const wanted = golden.get(name);
        const scale = name.includes('.grad.') ? largest : Math.max(maxAbs(wanted), 1);
        const [error] = golden.get(`error.${name}`);
        const abs = 2 * error! + 4 * ulp(scale) + tanhAllowance + softmaxAllowance(64) * scale;
        expectClose(await value.read(), wanted, { abs }, name);
      }
    },
  );
});

test('a step in f16 has the losses of one in f32, to the digits of f16; where there is no f16 it is refused', async () => {
  const config = resolveConfig({ ...small, imageSize: 16, latentSize: 8, batch: 4 });
  const half = { ...config, precision: 'f16' as const };
  if (!gpu.features.has('shader-f16')) {
    expect(() => createVae(tape, half)).toThrow('--precision f16 needs the feature shader-f16');
    return;
  }
  const [exact, rounded] = await Promise.all(
    [config, half].map(async (one) => {
      const vae = createVae(tape, one);
      const [input] = stepInputs(vae);
      input!.images.set(
        Uint32Array.from({ length: input!.images.size }, (_u, i) => i * 2654435761),
      );
      const { loss, reconstruction, kl } = vaeStep(vae, input!);
      return [await loss.item(), await reconstruction.item(), await kl.item()];
    }),
  );
  expect(rounded).not.toEqual(exact);
  expectClose(rounded!, exact!, { abs: 0.01, rel: 0.01 }, 'loss, reconstruction, kl');
});

test('only a VAE is asked to make images again', () => {
  const of = (preset: string) => {
    const config = resolveConfig({ data: 'none', preset });
    requireReconstruction({ path: 'a.safetensors', config } as Checkpoint);
  };
  of('vae-32');
  expect(() => {
    of('sagan-32');
  }).toThrow(
    "checkpoint a.safetensors is of sagan-32, which reconstructs nothing: that takes a VAE's encoder",
  );
});
