import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, describe, expect, inject, test } from 'vitest';
import {
  createInstance,
  deferredPolls,
  hostMemoryBytes,
  installPollThrottle,
  readText,
  resetPollThrottle,
} from '../../src/gpu/platform.ts';
import type { VectorWidth } from '../../src/gpu/platform.ts';

const driver = inject('driver');
const platform = await createInstance({ driver, toggles: ['disable_robustness'] });
const adapter = platform.adapters[0];

const empty = mkdtempSync(join(os.tmpdir(), 'wgsagan-platform-'));
afterAll(() => {
  rmSync(empty, { recursive: true, force: true });
});

/** Runs body for a while with another cache folder. */
async function withCache<T>(folder: string, body: () => Promise<T>): Promise<T> {
  const before = process.env['XDG_CACHE_HOME'];
  process.env['XDG_CACHE_HOME'] = folder;
  try {
    return await body();
  } finally {
    if (before === undefined) delete process.env['XDG_CACHE_HOME'];
    else process.env['XDG_CACHE_HOME'] = before;
  }
}

test('the driver that was asked for gives an adapter, and the toggles in force are told', () => {
  expect(adapter).toBeDefined();
  expect(platform.remedy).toBeNull();
  if (driver !== 'auto') expect(platform.driver.kind).toBe(driver);
  const names = { lavapipe: /llvmpipe/, swiftshader: /SwiftShader/, auto: /./ };
  expect(adapter?.info.description).toMatch(names[driver]);
  expect(platform.toggles.enabled).toEqual([
    'allow_unsafe_apis',
    'vulkan_enable_f16_on_nvidia',
    'disable_robustness',
  ]);
  expect(platform.toggles.disabled).toEqual(['timestamp_quantization']);
});

test('a driver that is not cached gives no adapter and the command that brings it', async () => {
  const found = await withCache(empty, () => createInstance({ driver: 'swiftshader' }));
  expect(found.adapters).toEqual([]);
  expect(found.remedy).toBe(
    `the swiftshader driver is not in ${join(empty, 'wgsagan', 'drivers')}: run \`npm run setup -- --driver swiftshader\``,
  );
});

test('an instance is held until the process ends: one that is collected takes the process down', async () => {
  const { wgsaganInstances } = globalThis as { wgsaganInstances?: Set<GPU> };
  expect(wgsaganInstances).toContain(platform.gpu);
  const another = await createInstance({ backend: 'null' });
  expect(wgsaganInstances).toContain(another.gpu);
});

describe.runIf(process.platform === 'linux')('what lavapipe reads of the environment', () => {
  const names = [
    'LP_NATIVE_VECTOR_WIDTH',
    'MESA_SHADER_CACHE_DIR',
    'MESA_SHADER_CACHE_DISABLE',
  ] as const;

  /** The environment after a start with a cache folder of its own; a driver that is not there keeps Dawn out of it. */
  async function environmentAfter(cache: string, vectorWidth?: VectorWidth) {
    const before = names.map((name) => process.env[name]);
    try {
      const options = vectorWidth === undefined ? {} : { vectorWidth };
      const found = await withCache(cache, () =>
        createInstance({ driver: 'swiftshader', ...options }),
      );
      return { environment: names.map((name) => process.env[name]), driver: found.driver };
    } finally {
      names.forEach((name, i) => {
        const value = before[i];
        if (value === undefined) Reflect.deleteProperty(process.env, name);
        else process.env[name] = value;
      });
    }
  }

  test('its vector width, with a folder of shaders for each, because its cache does not tell them apart', async () => {
    const widths = [undefined, 128, 256, 512] as const;
    for (const width of widths) {
      const bits = width ?? 256;
      const folder = join(empty, 'wgsagan', 'shaders', `lavapipe-${bits}`);
      const { environment, driver: used } = await environmentAfter(empty, width);
      expect(environment).toEqual([String(bits), folder, undefined]);
      expect(existsSync(folder)).toBe(true);
      expect(used.vectorWidth).toBe(bits);
    }
    const own = join(empty, 'wgsagan', 'shaders', 'lavapipe-default');
    const { environment } = await environmentAfter(empty, 'default');
    expect(environment).toEqual([undefined, own, undefined]);
  });

  test('no shader cache at all where its folder cannot be made, and the start goes on', async () => {
    const file = join(empty, 'file');
    writeFileSync(file, '');
    const { environment } = await environmentAfter(file);
    expect([environment[0], environment[2]]).toEqual(['256', 'true']);
    // Once there is a folder again, it is used.
    expect((await environmentAfter(empty)).environment[2]).toBeUndefined();
  });
});

test('the null backend needs no driver', async () => {
  const found = await withCache(empty, () => createInstance({ backend: 'null' }));
  expect(found.adapters).toHaveLength(1);
  expect(found.driver.kind).toBe('null');
});

test('a name that no adapter has gives no adapter', async () => {
  const found = await createInstance({ driver, adapterName: 'no such adapter' });
  expect(found.adapters).toEqual([]);
});

test.runIf(adapter?.info.isFallbackAdapter)(
  'polls of a long wait are put off, the result is right, and other immediates are left alone',
  async () => {
    installPollThrottle();
    installPollThrottle();
    const device = await adapter!.requestDevice();
    const code = `
      @group(0) @binding(0) var<storage, read_write> x: array<f32>;
      @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
        var s = 0.0;
        for (var k = 0u; k < 200000u; k++) { s = s * 0.5 + f32(id.x); }
        x[id.x] = s;
      }`;
    const compute = { module: device.createShaderModule({ code }) };
    const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute });
    const size = 4096;
    const buffer = device.createBuffer({
      size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC,
    });
    const host = device.createBuffer({
      size,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const bindGroup = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer } }],
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindGroup);
    pass.dispatchWorkgroups(size / 4 / 64);
    pass.end();
    encoder.copyBufferToBuffer(buffer, 0, host, 0, size);
    const before = deferredPolls();
    device.queue.submit([encoder.finish()]);
    resetPollThrottle();
    await host.mapAsync(GPUMapMode.READ);
    expect(deferredPolls()).toBeGreaterThan(before);
    // s = s/2 + x has the fixed point 2x, which f32 reaches exactly.
    expect([...new Float32Array(host.getMappedRange())]).toEqual(
      Array.from({ length: size / 4 }, (_, i) => 2 * i),
    );
    await expect(nextTurn('turn')).resolves.toBe('turn');
    await expect(promisify(setImmediate)('turn')).resolves.toBe('turn');
    device.destroy();
  },
);

test('memory is what the machine or its container has', () => {
  const { total, available } = hostMemoryBytes();
  expect(total).toBeGreaterThan(2 ** 28);
  expect(total).toBeLessThanOrEqual(os.totalmem());
  expect(available).toBeGreaterThan(0);
  expect(available).toBeLessThanOrEqual(total);
});

test('a kernel text that is absent is an error that names it', () => {
  expect(() => readText('no/such.wgsl')).toThrow('such.wgsl');
});
