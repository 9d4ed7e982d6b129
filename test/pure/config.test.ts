import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { saganPresets } from '../../src/models/sagan.ts';
import {
  configSchema,
  configToYaml,
  keyOf,
  optionName,
  parseConfig,
  readConfigFile,
  resolveConfig,
} from '../../src/train/config.ts';
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

  test.each(Object.keys(saganPresets))('preset %s brings its architecture', (preset) => {
    const shape = saganPresets[preset as keyof typeof saganPresets];
    expect(resolveConfig({ ...data, preset })).toMatchObject(shape);
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
    const config = resolveConfig({ ...data, attentionG: [], flip: true, timeLimit: 5 });
    const yaml = configToYaml(config);
    expect(yaml).toContain('image-size: 32');
    expect(resolveConfig(parseConfig(yaml, 'saved'))).toEqual(config);
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
      'unknown preset sagan-31; did you mean sagan-32?; there are sagan-32-tiny, sagan-32, sagan-64, sagan-128',
    );
    expect(complaint(() => resolveConfig({ ...data, preset: 3 }))).toMatch(/^unknown preset 3;/);
    // no preset of that name, though every object has it
    expect(complaint(() => resolveConfig({ ...data, preset: 'toString' }))).toMatch(
      /^unknown preset toString/,
    );
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

  test('attention at a size that the net does not have', () => {
    expect(complaint(() => resolveConfig({ ...data, attentionD: [32] }))).toBe(
      '--attention-d 32 is no feature size of a 32-pixel image; there are 4, 8, 16',
    );
    expect(complaint(() => resolveConfig({ ...data, attentionG: [16, 5] }))).toBe(
      '--attention-g 5 is no feature size of a 32-pixel image; there are 4, 8, 16',
    );
  });

  test.each([
    ['batch', 0],
    ['batch', 1.5],
    ['steps', -1],
    ['channels', 2],
    ['lrG', 0],
    ['lrD', -1e-4],
    ['beta1', 1],
    ['emaDecay', 1.5],
    ['slope', 2],
    ['seed', -1],
    ['loss', 'hing'],
    ['init', 'xavi'],
    ['timeLimit', 0],
    ['data', ''],
  ])('%s %s is refused with the name of the option', (key, value) => {
    const message = complaint(() => resolveConfig({ ...data, [key]: value }));
    expect(message).toMatch(new RegExp(`^options: ${optionName(key)} .{8,}`));
  });

  test('a run without data is refused', () => {
    expect(complaint(() => resolveConfig({}))).toMatch(/^options: data /);
  });

  test('a wrong value in a file names the file and the key', () => {
    expect(complaint(() => parseConfig('batch: many', 'c.yaml'))).toMatch(/^config c.yaml: batch /);
    expect(complaint(() => parseConfig('attention-g: 16', 'c.yaml'))).toMatch(
      /^config c.yaml: attention-g /,
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
      new RegExp(`^config ${missing.replaceAll('\\', '\\\\')} cannot be read: `),
    );
  });

  test('an empty file says nothing', () => {
    expect(parseConfig('', 'c.yaml')).toEqual({});
    const file = join(folder, 'c.yaml');
    writeFileSync(file, '# only a comment\n');
    expect(readConfigFile(file)).toEqual({});
  });
});
