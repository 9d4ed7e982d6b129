import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { presetNames, presets } from '../../src/models/presets.ts';
import {
  configToYaml,
  parseConfig,
  readConfigFile,
  resolveConfig,
} from '../../src/train/config.ts';
import { keyOf, optionName } from '../../src/train/check.ts';
import { configSchema } from '../../src/train/options.ts';
import { UserError } from '../../src/util/errors.ts';

const data = { data: 'avatars' };

/** The message of the `UserError` that `body` must throw. */
function complaint(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    const { message } = error as UserError;
    expect(message).not.toContain('\n');
    return message;
  }
  throw new Error('nothing was thrown');
}

describe('layers of a config', () => {
  test('defaults are those of the paper', () => {
    expect(resolveConfig(data)).toMatchObject({
      preset: 'sagan-32',
      ...{ batch: 64, loss: 'hinge', lrG: 1e-4, lrD: 4e-4, beta1: 0, beta2: 0.9, dSteps: 1 },
    });
  });

  test.each(presetNames)('preset %s brings its architecture', (preset) => {
    expect(resolveConfig({ ...data, preset })).toMatchObject(presets[preset].options);
  });

  test('a recipe belongs to its preset and lies above the defaults', () => {
    expect(resolveConfig({ ...data, preset: 'sagan-32-tiny' })).toMatchObject({
      batch: 16,
      emaDecay: 0.99,
    });
    expect(resolveConfig(data).emaDecay).toBe(0.999);
  });

  test('a file overrides the preset and a flag overrides the file', () => {
    const file = parseConfig('preset: sagan-32-tiny\nbatch: 8\nlr-g: 0.001\nseed: 5\n', 'c.yaml');
    const config = resolveConfig(data, file, { batch: 4, seed: undefined });
    expect(config).toMatchObject({ preset: 'sagan-32-tiny', batch: 4, lrG: 0.001, seed: 5 });
    expect(config.width).toBe(16);
  });

  test('another image size keeps the attention stages that still exist', () => {
    expect(resolveConfig({ ...data, preset: 'sagan-64', imageSize: 32 })).toMatchObject({
      imageSize: 32,
      attentionG: [16],
      attentionD: [16],
    });
    expect(resolveConfig({ ...data, imageSize: 8 }).attentionG).toEqual([]);
    expect(resolveConfig({ ...data, imageSize: 64, attentionG: [8, 32] }).attentionG).toEqual([
      8, 32,
    ]);
  });

  test('what is written is read back to the same config', () => {
    const vae = resolveConfig({ ...data, preset: 'vae-32', klWeight: 4, conditional: true });
    expect(resolveConfig(parseConfig(configToYaml(vae), 'saved'))).toEqual(vae);
    const config = resolveConfig({ ...data, attentionG: [], flip: true, timeLimit: 5 });
    const yaml = configToYaml(config);
    expect(yaml).toContain('image-size: 32');
    expect(resolveConfig(parseConfig(yaml, 'saved'))).toEqual(config);
  });

  test('a net that grows is trained until it has, unless the steps are given', () => {
    const grown = { ...data, preset: 'progressive-32', stageSteps: 600 };
    expect(resolveConfig(grown).steps).toBe(7 * 600);
    expect(resolveConfig({ ...grown, imageSize: 8 }).steps).toBe(3 * 600);
    expect(resolveConfig({ ...grown, steps: 50 }).steps).toBe(50);
  });

  test('option names and keys are one vocabulary', () => {
    for (const key of Object.keys(configSchema.shape)) expect(keyOf(optionName(key))).toBe(key);
    expect(optionName('attentionG')).toBe('attention-g');
    expect(keyOf('image-size')).toBe('imageSize');
  });
});

describe('mistakes in a config', () => {
  const folder = mkdtempSync(join(tmpdir(), 'wgsagan-config-'));
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  test('an unknown key names the nearest known one', () => {
    expect(complaint(() => parseConfig('bacth: 8', 'c.yaml'))).toBe(
      'config c.yaml: unknown key bacth; did you mean batch?',
    );
    expect(complaint(() => parseConfig('imageSize: 8', 'c.yaml'))).toBe(
      'config c.yaml: unknown key imageSize; did you mean image-size?',
    );
    expect(complaint(() => parseConfig('zzzzzzzz: 8', 'c.yaml'))).toBe(
      'config c.yaml: unknown key zzzzzzzz',
    );
  });

  test('an unknown preset names the nearest and lists all', () => {
    expect(complaint(() => resolveConfig({ ...data, preset: 'sagan-31' }))).toBe(
      `--preset sagan-31 is unknown; did you mean sagan-32? There are ${presetNames.join(', ')}`,
    );
    expect(complaint(() => resolveConfig({ ...data, preset: 3 }))).toMatch(
      /^--preset 3 is unknown; there are /,
    );
    // no preset of that name, though every object has it
    expect(complaint(() => resolveConfig({ ...data, preset: 'toString' }))).toMatch(
      /^--preset toString is unknown; there are /,
    );
  });

  test.each([
    [{ conditional: true }, '--conditional needs a preset of sagan-resnet'],
    [{ preset: 'progressive-32', conditional: true }, 'progressive tells no classes'],
    [{ stageSteps: 5 }, '--stage-steps 5 says nothing to a net that does not grow'],
    [{ preset: 'sagan-resnet-32', slope: 0.2 }, '--slope 0.2 says nothing to sagan-resnet'],
    [{ preset: 'sagan-resnet-32', imageSize: 8 }, 'a power of two from 16 to 512'],
    [{ preset: 'sagan-resnet-64', attentionAt: [4] }, '4 is no feature size of a 64-pixel image'],
    [{ preset: 'sagan-resnet-64', attention: 'class' }, '--attention class needs --conditional'],
    [{ preset: 'sagan-resnet-64', classes: 4 }, '--classes 4 says nothing without --conditional'],
    [{ preset: 'vae-32', imageSize: 4 }, 'a power of two from 8 to 512'],
    [{ preset: 'vae-32', loss: 'bce' }, '--loss bce is for a GAN; vae-32 is a VAE'],
    [{ preset: 'vae-32', regularizer: 'r1' }, '--regularizer r1 is for a GAN; vae-32 is a VAE'],
    [{ preset: 'vae-32', lrD: 1e-3 }, '--lr-d 0.001 is for a GAN; vae-32 is a VAE'],
    [{ preset: 'vae-32', dSteps: 2 }, '--d-steps 2 is for a GAN; vae-32 is a VAE'],
    [{ reconstruction: 'bce' }, '--reconstruction bce is for a VAE; sagan-32 is a GAN'],
    [{ klWeight: 4 }, '--kl-weight 4 is for a VAE; sagan-32 is a GAN'],
    [
      { frames: 8 },
      '--frames 8 says nothing to sagan-32, which makes stills; clips are made by video',
    ],
    [{ preset: 'video-32', frames: 1 }, '--frames 1 is a still, and video-32 makes clips'],
    [{ preset: 'video-32', frames: 6 }, 'a power of two from 2 to 16, half the image size'],
    [{ preset: 'video-32', frames: 32 }, '--frames 32 is impossible'],
    [{ preset: 'video-32', imageSize: 16 }, '--frames 16 is impossible'],
    [{ preset: 'video-32', attention: 'gate' }, '--attention gate is made of 3×3 convolutions'],
    [{ preset: 'video-32', conditional: true }, 'video tells no classes'],
  ])('what a family cannot do is refused: %j', (options, reason) => {
    expect(complaint(() => resolveConfig({ ...data, ...options }))).toContain(reason);
  });

  test.each([0, 4, 24, 48, 1024, 32.5, -32])('an image size of %d is impossible', (imageSize) => {
    const message = complaint(() => resolveConfig({ ...data, imageSize }));
    expect(message).toContain('image-size');
    if (Number.isInteger(imageSize)) {
      expect(message).toBe(
        `--image-size ${imageSize} is impossible: it must be a power of two from 8 to 512`,
      );
    }
  });

  test('attention whose sizes do not go with the net', () => {
    expect(complaint(() => resolveConfig({ ...data, attention: 'multihead', heads: 5 }))).toBe(
      '--heads 5 does not divide --width 64: heads share the channels evenly',
    );
    const small = { ...data, attention: 'topk', attentionG: [4], attentionD: [16] };
    expect(complaint(() => resolveConfig({ ...small, topk: 17 }))).toBe(
      '--topk 17 is more than the 16 positions of attention at 4×4',
    );
    expect(complaint(() => resolveConfig({ ...small, topk: 65 }))).toBe(
      '--topk is 65: expected 64 or less',
    );
    // what the chosen kind does not heed is not looked at
    expect(resolveConfig({ ...data, heads: 5, topk: 64, attentionG: [4] }).heads).toBe(5);
    const nowhere = { attentionG: [], attentionD: [] };
    expect(resolveConfig({ ...data, ...nowhere, attention: 'multihead', heads: 5 }).heads).toBe(5);
  });

  test('attention at a size that the net does not have', () => {
    expect(complaint(() => resolveConfig({ ...data, attentionD: [32] }))).toBe(
      '--attention-d 32 is no feature size of a 32-pixel image; there are 4, 8, 16',
    );
    expect(complaint(() => resolveConfig({ ...data, attentionG: [16, 5] }))).toBe(
      '--attention-g 5 is no feature size of a 32-pixel image; there are 4, 8, 16',
    );
  });

  test.each([
    ['batch', 0, '--batch is 0: expected 1 or more'],
    ['batch', 1.5, '--batch is 1.5: expected a whole number'],
    ['batch', 'many', '--batch is "many": expected a number'],
    ['steps', -1, '--steps is -1: expected 1 or more'],
    ['channels', 2, '--channels is 2: expected 1 or 3'],
    ['lrG', 0, '--lr-g is 0: expected more than 0'],
    ['lrD', -1e-4, '--lr-d is -0.0001: expected more than 0'],
    ['lrG', Infinity, '--lr-g is Infinity: expected a finite number'],
    ['lrD', NaN, '--lr-d is NaN: expected a finite number'],
    ['steps', -Infinity, '--steps is -Infinity: expected a finite number'],
    ['dSteps', 300, '--d-steps is 300: expected 100 or less'],
    ['latentSize', 1e9, '--latent-size is 1000000000: expected 16384 or less'],
    ['width', 1e7, '--width is 10000000: expected 4096 or less'],
    ['beta1', 1, '--beta1 is 1: expected less than 1'],
    ['emaDecay', 1.5, '--ema-decay is 1.5: expected less than 1'],
    ['slope', 2, '--slope is 2: expected 1 or less'],
    ['seed', -1, '--seed is -1: expected 0 or more'],
    ['flip', 'yes', '--flip is "yes": expected a boolean'],
    ['attentionG', 16, '--attention-g is 16: expected a list'],
    ['attentionD', [8.5], '--attention-d is 8.5: expected a whole number'],
    [
      'loss',
      'hing',
      '--loss hing is unknown; did you mean hinge? There are hinge, bce, bce-minimax, lsgan, wasserstein',
    ],
    ['regularizer', 'r2', '--regularizer r2 is unknown; did you mean r1? There are none, gp, r1'],
    ['regularizerWeight', -1, '--regularizer-weight is -1: expected 0 or more'],
    ['labelSmoothing', 0.6, '--label-smoothing is 0.6: expected 0.5 or less'],
    [
      'init',
      'xavi',
      '--init xavi is unknown; did you mean xavier? There are xavier, orthogonal, normal, default',
    ],
    ['timeLimit', 0, '--time-limit is 0: expected more than 0'],
    ['data', '', '--data is "": expected some text'],
  ])('%s %j is refused with option, value and what was expected', (key, value, message) => {
    expect(complaint(() => resolveConfig({ ...data, [key]: value }))).toBe(message);
  });

  test.each(['bce', 'bce-minimax'])('labels are smoothed for --loss %s', (loss) => {
    expect(resolveConfig({ ...data, loss, labelSmoothing: 0.1 }).labelSmoothing).toBe(0.1);
  });

  test.each(['hinge', 'lsgan', 'wasserstein'])('but not for --loss %s', (loss) => {
    expect(complaint(() => resolveConfig({ ...data, loss, labelSmoothing: 0.1 }))).toBe(
      `--label-smoothing 0.1 is for --loss bce or bce-minimax, not ${loss}`,
    );
  });

  test('a weight of no penalty', () => {
    expect(complaint(() => resolveConfig({ ...data, regularizerWeight: 5 }))).toBe(
      '--regularizer-weight 5 says nothing without --regularizer',
    );
    expect(resolveConfig({ ...data, regularizer: 'r1', regularizerWeight: 5 })).toMatchObject({
      regularizer: 'r1',
      regularizerWeight: 5,
    });
  });

  test('a run without data is refused', () => {
    expect(complaint(() => resolveConfig({}))).toBe(
      '--data is missing: name a folder or zip of images, fashion-mnist, avatars or moving-shapes',
    );
  });

  test('a wrong value in a file names the file and the key', () => {
    expect(complaint(() => parseConfig('batch: many', 'c.yaml'))).toBe(
      'config c.yaml: batch is "many": expected a number',
    );
    expect(complaint(() => parseConfig('attention-g: 16', 'c.yaml'))).toBe(
      'config c.yaml: attention-g is 16: expected a list',
    );
  });

  test('a number of YAML that is none, or not finite', () => {
    expect(complaint(() => parseConfig('lr-g: .inf', 'c.yaml'))).toBe(
      'config c.yaml: lr-g is Infinity: expected a finite number',
    );
    expect(complaint(() => parseConfig('batch: .nan', 'c.yaml'))).toBe(
      'config c.yaml: batch is NaN: expected a finite number',
    );
  });

  test('a file that is no map, no YAML or not there', () => {
    expect(complaint(() => parseConfig('- batch', 'c.yaml'))).toBe(
      'config c.yaml must be a map of options, such as "batch: 32"',
    );
    expect(complaint(() => parseConfig('batch', 'c.yaml'))).toBe(
      'config c.yaml must be a map of options, such as "batch: 32"',
    );
    expect(complaint(() => parseConfig('batch: [1', 'c.yaml'))).toMatch(
      /^config c.yaml is not YAML: /,
    );
    const missing = join(folder, 'missing.yaml');
    expect(complaint(() => readConfigFile(missing))).toMatch(
      new RegExp(`^cannot read config ${missing.replaceAll('\\', '\\\\')}: no such file`),
    );
  });

  test('an empty file says nothing', () => {
    expect(parseConfig('', 'c.yaml')).toEqual({});
    const file = join(folder, 'c.yaml');
    writeFileSync(file, '# only a comment\n');
    expect(readConfigFile(file)).toEqual({});
  });
});
