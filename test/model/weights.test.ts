// Weights both ways: PyTorch's golden checkpoint in and out again, real PyTorch where there is one, and ONNX Runtime.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { memoryDataset } from '../../src/data/memory.ts';
import { decodeSafetensors, writeSafetensors } from '../../src/io/safetensors.ts';
import type { StoredTensor, TensorData } from '../../src/io/safetensors.ts';
import { readNewestCheckpoint } from '../../src/train/checkpoint.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { exporters } from '../../src/train/export/weights.ts';
import type { NetName } from '../../src/train/export/weights.ts';
import { importRun } from '../../src/train/import.ts';
import { openGenerator } from '../../src/train/sample.ts';
import { latents } from '../../src/train/latents.ts';
import { train } from '../../src/train/trainer.ts';
import { bitsOfHalf, halfFromBits } from '../../src/util/half.ts';
import { loadGolden } from '../golden/load.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { runOnnx } from '../support/onnx.ts';
import { uniform } from '../support/random.ts';

const gpu = await openTestGpu();
const golden = loadGolden('sagan_weights');
const goldenPath = fileURLToPath(new URL('../golden/sagan_weights.safetensors', import.meta.url));
const z = golden.get('z')!.data;
/** The nets of golden_weights.py. */
const options = {
  ...{ data: 'none', preset: 'sagan-32-tiny', imageSize: 16, width: 4, latentSize: 6 },
  ...{ attentionAt: [4], batch: 4, steps: 4 },
};
const config = resolveConfig(options);

const folder = mkdtempSync(join(tmpdir(), 'wgsagan-weights-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});
const at = (name: string) => join(folder, name);
const tensorsOf = (path: string) => decodeSafetensors(readFileSync(path), { name: path });

/** What a run's generator makes of latents, in evaluation mode. */
async function imagesOf(run: string, seeds: Float32Array): Promise<Float32Array> {
  const checkpoint = await readNewestCheckpoint(run);
  const { sampler } = await openGenerator(new Tape(gpu), checkpoint, { weights: 'ema' });
  const images = await sampler.images(seeds);
  sampler.close();
  return images;
}

let exports = 0;
/** The path of a new file that a net of a run was written to. */
async function exported(run: string, format: 'safetensors' | 'onnx', net: NetName = 'average') {
  const out = at(`${exports++}-${net}.${format}`);
  await exporters[format](gpu, { checkpoint: await readNewestCheckpoint(run), net, out });
  return out;
}

beforeAll(async () => {
  const files = { generator: goldenPath, discriminator: goldenPath };
  const { generator, discriminator } = await importRun(gpu, at('run'), { config, ...files });
  expect(generator).toEqual({ prefix: 'netG.', tensors: 33, others: 28 });
  expect(discriminator).toMatchObject({ prefix: 'netD.', tensors: 25 });
});

describe("PyTorch's golden checkpoint", () => {
  test('makes the same images once it is imported', async () => {
    expectClose(await imagesOf(at('run'), z), golden.get('images')!.data, { abs: 1e-5 }, 'images');
  });

  test.each([
    ['generator', 'netG.'],
    ['average', 'netG.'],
    ['discriminator', 'netD.'],
  ] as const)('comes out again as it went in: %s', async (net, prefix) => {
    const { tensors, metadata } = tensorsOf(await exported(at('run'), 'safetensors', net));
    expect(metadata).toMatchObject({ format: 'pt', kind: `wgsagan ${net}`, step: '0' });
    const then = [...golden].filter(([name]) => name.startsWith(prefix));
    expect([...tensors.keys()].map((name) => prefix + name).sort()).toEqual(
      then.map(([name]) => name).sort(),
    );
    for (const [name, { shape, data }] of then) {
      const now = tensors.get(name.slice(prefix.length))!;
      expect(now.shape, name).toEqual(shape);
      if (name.endsWith('num_batches_tracked')) expect(now.dtype).toBe('I64');
      else expect(now.data, name).toEqual(data);
    }
  });

  test('may be of other float types', async () => {
    const scratch = new DataView(new ArrayBuffer(4));
    const bf16 = (x: number) => {
      scratch.setFloat32(0, x);
      return scratch.getUint16(0);
    };
    const widened = (bits: number) => {
      scratch.setUint32(0, bits * 2 ** 16);
      return scratch.getFloat32(0);
    };
    const types = {
      F64: [(data: Float32Array): TensorData => Float64Array.from(data), (x: number) => x],
      F16: [
        (data: Float32Array) => Uint16Array.from(data, bitsOfHalf),
        (x: number) => halfFromBits(bitsOfHalf(x)),
      ],
      BF16: [(data: Float32Array) => Uint16Array.from(data, bf16), (x: number) => widened(bf16(x))],
    } as const;
    for (const [dtype, [pack, value]] of Object.entries(types)) {
      const tensors = new Map<string, StoredTensor>();
      for (const [name, { shape, data }] of golden) {
        if (!name.startsWith('netG.')) continue;
        tensors.set(name, { dtype: dtype as keyof typeof types, shape, data: pack(data) });
      }
      await writeSafetensors(at(`${dtype}.safetensors`), tensors);
      const generator = at(`${dtype}.safetensors`);
      await importRun(gpu, at(dtype), { config, generator, discriminator: undefined });
      const { file } = await readNewestCheckpoint(at(dtype));
      const name = 'main.0.weight_orig';
      expect(file.tensors.get(`generator.${name}`)!.data).toEqual(
        golden.get(`netG.${name}`)!.data.map(value),
      );
    }
  });

  test('of another architecture is refused with every name, and nothing is written', async () => {
    const into = (more: object) =>
      importRun(gpu, at('refused'), {
        config: resolveConfig({ ...options, ...more }),
        generator: goldenPath,
        discriminator: undefined,
      });
    await expect(into({ latentSize: 5 })).rejects.toThrow(
      /^weight file .*sagan_weights\.safetensors under netG\., for sagan-32-tiny, is of another architecture: main\.0\.weight_orig is \[6, 8, 4, 4\], needed \[5, 8, 4, 4\]; main\.0\.weight_v is \[96\], needed \[80\]$/,
    );
    await expect(into({ attention: 'none' })).rejects.toThrow(
      /; not in this architecture: main\.3\.gamma, .*query_conv\.weight_orig, .* and \d+ more$/,
    );
    await expect(into({ attentionAt: [4, 8] })).rejects.toThrow(
      /: missing main\.7\.gamma, main\.7\.query_conv\.weight_orig, .* and 3 more; not in this/,
    );
    expect(existsSync(at('refused'))).toBe(false);
    const again = { config, generator: goldenPath, discriminator: undefined };
    await expect(importRun(gpu, at('run'), again)).rejects.toThrow(/run holds another run/);
  });
});

describe('a run that went on from it', () => {
  const trained = at('trained');
  const next = uniform(3);
  const dataset = memoryDataset({
    ...{ name: 'noise', description: '', fingerprint: 'noise', channels: 3, imageSize: 16 },
    classes: ['noise'],
    images: Uint8Array.from({ length: 8 * 3 * 16 ** 2 }, () => next() * 256),
    labels: new Uint32Array(8),
  });

  beforeAll(async () => {
    await importRun(gpu, trained, { config, generator: goldenPath, discriminator: goldenPath });
    const resume = await readNewestCheckpoint(trained);
    const openData = () => Promise.resolve(dataset);
    const { step } = await train({ gpu, openData, config, run: trained, resume });
    expect(step).toBe(4);
  });

  test('ONNX Runtime makes the images that the engine makes, in any batch', async () => {
    const model = readFileSync(await exported(trained, 'onnx'));
    for (const count of [1, 5]) {
      const seeds = latents(2, count, config.latentSize);
      const images = await runOnnx(model, { z: [seeds, [count, 6]] });
      expect(images.shape).toEqual([count, 3, 16, 16]);
      const ours = await imagesOf(trained, seeds);
      expectClose(images.data, ours, { abs: 1e-4 }, `batch ${count}`);
    }
  });

  const python = '/usr/bin/python3';
  const hasTorch = spawnSync(python, ['-c', 'import torch']).status === 0;
  test.runIf(hasTorch)('PyTorch reads what we write, and we read what it writes', async () => {
    const script = fileURLToPath(new URL('../golden/golden_weights.py', import.meta.url));
    const file = await exported(trained, 'safetensors');
    execFileSync(python, [script, file, goldenPath, at('torch.safetensors')]);
    const { tensors } = tensorsOf(at('torch.safetensors'));
    const images = (name: string) => tensors.get(name)!.data as Float32Array;
    expectClose(await imagesOf(trained, z), images('images'), { abs: 1e-5 }, 'ours in PyTorch');
    const generator = at('torch.safetensors');
    const own = { config, generator, discriminator: undefined };
    const found = await importRun(gpu, at('of-torch'), own);
    expect(found.generator).toMatchObject({ prefix: 'module.', others: 2 });
    expectClose(await imagesOf(at('of-torch'), z), images('images.own'), { abs: 1e-5 }, 'its own');
  });
});
