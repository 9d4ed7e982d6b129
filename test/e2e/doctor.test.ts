import { spawnSync } from 'node:child_process';
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { optionName } from '../../src/train/check.ts';
import { configSchema } from '../../src/train/options.ts';
import { runCli, runWell, tempFolder } from '../support/cli.ts';

test('doctor names the machine, the adapter, its driver, limits and toggles, and opens it', async () => {
  const { stdout } = await runWell(['doctor']);
  for (const line of [
    /^machine {4}\w+ \w+, Node 2\d\.\S+, \d+ cores, [\d.]+ GiB of [\d.]+ GiB memory free$/m,
    /^adapter {4}\S.* \((software|integrated|discrete)\)$/m,
    /^chosen {5}\S.*, class (software|integrated|discrete)$/m,
    /^driver {5}(system|lavapipe|swiftshader)\b.*; \S/m,
    /^features {3}\S.*\w/m,
    /^subgroups {2}\d+ to \d+ lanes$/m,
    /^half {7}(no f16, no tensor cores|f16, no tensor cores|f16, tensor cores of \d+×\d+×\d+ by \d+ lanes)$/m,
    /^toggles {4}on: .*allow_unsafe_apis, vulkan_enable_f16_on_nvidia.*; off: .*timestamp_quantization/m,
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

/** Node code that runs before the command, in its process. */
const preload = (code: string) => ({
  NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(code)}`,
});

test('doctor fails as text and as JSON where the device opens and does not compute', async () => {
  const webgpu = import.meta.resolve('webgpu');
  const env = preload(
    `import { globals } from '${webgpu}'; globals.GPUQueue.prototype.submit = () => undefined;`,
  );
  const text = await runCli(['doctor'], { env });
  expect(text.code).toBe(1);
  expect(text.stdout).toMatch(/^remedy {5}the device does not work: the device computed /m);
  const json = await runCli(['doctor', '--json'], { env });
  expect(json.code).toBe(1);
  expect(JSON.parse(json.stdout)).toMatchObject({
    chosen: { name: expect.any(String) },
    remedies: expect.arrayContaining([expect.stringContaining('does not work')]),
  });
});

test('a clone without its packages says how to install them, in one line', async () => {
  const clone = tempFolder();
  const root = fileURLToPath(new URL('../..', import.meta.url));
  for (const name of ['package.json', 'scripts', 'src']) {
    cpSync(join(root, name), join(clone, name), { recursive: true });
  }
  const result = spawnSync(process.execPath, [join(clone, 'scripts', 'wgsagan.mjs'), 'doctor'], {
    encoding: 'utf8',
  });
  expect(result.stderr).toBe('wgsagan: the package tsx is not installed: run `npm run setup`\n');
  expect(result.status).toBe(1);
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
  for (const command of ['train', 'sample', 'profile', 'explain', 'doctor', 'demo']) {
    expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
  }
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  const { version } = JSON.parse(manifest) as { version: string };
  expect((await runWell(['--version'])).stdout).toBe(`${version}\n`);
});
