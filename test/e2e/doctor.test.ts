import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { configSchema, optionName } from '../../src/train/config.ts';
import { runCli, runWell } from '../support/cli.ts';

test('doctor names the machine, the adapter, its driver, limits and toggles, and opens it', async () => {
  const { stdout } = await runWell(['doctor']);
  for (const line of [
    /^machine {4}\w+ \w+, Node 2\d\.\S+, \d+ cores, [\d.]+ GiB of [\d.]+ GiB memory free$/m,
    /^adapter {4}\S.* \((software|integrated|discrete)\)$/m,
    /^chosen {5}\S.*, class (software|integrated|discrete)$/m,
    /^driver {5}(system|lavapipe|swiftshader)\b.*; \S/m,
    /^features {3}\S.*\w/m,
    /^subgroups {2}\d+ to \d+ lanes$/m,
    /^toggles {4}on: .*allow_unsafe_apis.*; off: .*timestamp_quantization/m,
    /^limit {6}maxStorageBufferBindingSize \d+$/m,
    /^device {5}opens, and computes$/m,
  ]) {
    expect(stdout).toMatch(line);
  }
});

test('doctor --json gives the same as data', async () => {
  const { stdout } = await runWell(['doctor', '--json']);
  const report = JSON.parse(stdout) as Record<string, unknown>;
  expect(report).toMatchObject({
    chosen: { name: expect.any(String), limits: { maxBufferSize: expect.any(Number) } },
    adapters: expect.any(Array),
    remedies: expect.any(Array),
  });
});

test('doctor with an adapter that is not there names those that are, and fails', async () => {
  const { code, stdout } = await runCli(['doctor', '--adapter', 'nonsense']);
  expect(code).toBe(1);
  expect(stdout).toMatch(
    /^remedy {5}no adapter matches --adapter nonsense; there is: .+ \((software|integrated|discrete)\)/m,
  );
  expect(stdout).not.toContain('chosen');
});

test('train --help lists every option of the config, with its text', async () => {
  const { stdout } = await runWell(['train', '--help']);
  const words = stdout.replace(/\s+/g, ' ');
  for (const [key, schema] of Object.entries(configSchema.shape)) {
    expect(words).toMatch(new RegExp(` --${optionName(key)}[ <]`));
    expect(schema.description, key).toBeTruthy();
    expect(words).toContain(schema.description);
  }
  for (const flag of ['--out', '--config', '--resume', '--memory', '--adapter', '--help']) {
    expect(words).toContain(` ${flag}`);
  }
});

test('--help lists the commands, --version the version of the package', async () => {
  const { stdout } = await runWell(['--help']);
  for (const command of ['train', 'sample', 'doctor', 'demo']) {
    expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
  }
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  const { version } = JSON.parse(manifest) as { version: string };
  expect((await runWell(['--version'])).stdout).toBe(`${version}\n`);
});
