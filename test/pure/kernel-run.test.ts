// What `run` asks of a device before it launches: its needs, and a grid within the limits or a file that can fold one.
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { listAdapterSummaries, matrixFeatures } from '../../src/gpu/adapter.ts';
import { Gpu } from '../../src/gpu/device.ts';
import { entriesOf, rewriteConst } from '../../src/gpu/wgsl.ts';
import { canRun, foldGrid, kernel, sourceOf } from '../../src/kernels/kernel.ts';
import type { KernelSpec, Needs } from '../../src/kernels/kernel.ts';

const { adapters } = await listAdapterSummaries({ backend: 'null' });
const { adapter, summary } = adapters[0]!;
const device = await adapter.requestDevice({ requiredFeatures: ['subgroups'] });
/** One with f16 and subgroup matrices. */
const able = await (
  await listAdapterSummaries({ backend: 'null' })
).adapters[0]!.adapter.requestDevice({
  requiredFeatures: matrixFeatures as readonly string[] as GPUFeatureName[],
});
afterAll(() => {
  device.destroy();
  able.destroy();
});

const limits = {
  ...summary.limits,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupsPerDimension: 100,
};
const gpu = new Gpu(device, { ...summary, limits }, {});

const fill = (needs: KernelSpec<string, string>['needs'], groups = 1) =>
  kernel({
    file: 'pointwise/fill.wgsl',
    tensors: ['out'],
    dims: ['n', 'value'],
    grid: () => [groups, 1, 1],
    flops: () => 0,
    bytes: () => 0,
    ...(needs === undefined ? {} : { needs }),
  });

function launch(made: ReturnType<typeof fill>) {
  return gpu.capture(() => {
    const out = gpu.alloc(64, 'out');
    made.run(gpu, { tensors: { out }, dims: { n: 16, value: 0 } });
    return [];
  }).dispatches;
}

describe('needs', () => {
  test.each<[Needs, string]>([
    [{ features: ['shader-f16'] }, 'pointwise/fill needs the feature shader-f16'],
    [
      { workgroupBytes: 16385 },
      'pointwise/fill needs 16385 bytes of workgroup memory (this device allows 16384)',
    ],
    [
      { invocations: 512, storageBuffers: 9 },
      'pointwise/fill needs 512 threads a workgroup (this device allows 256) and 9 storage buffers (this device allows 8)',
    ],
  ])('%o that the device lacks are an error that names them', (needs, message) => {
    const made = fill(needs);
    expect(canRun(gpu, made)).toBe(false);
    expect(() => launch(made)).toThrow(new Error(message));
  });

  test('of a tile are asked for with that tile', () => {
    const made = fill((tile) => ({ invocations: tile('WG') }));
    expect(canRun(gpu, made)).toBe(true); // 256 in the file
    expect(canRun(gpu, made, { WG: 257 })).toBe(false);
    expect(launch(made)).toHaveLength(1);
  });

  test('of tensors of f16 are the feature, and a file that can store them', () => {
    const sum = kernel({
      ...{ file: 'attention/delta.wgsl', tensors: ['out', 'dOut', 'delta'] },
      dims: ['B', 'Nq', 'DV'],
      grid: () => [1, 1, 1],
      flops: () => 0,
      bytes: (_dims, each = 4) => each,
    });
    const run = (on: Gpu) =>
      on.capture(() => {
        const [out, dOut, delta] = ['out', 'dOut', 'delta'].map((name) => on.alloc(64, name));
        const tensors = { out: out!, dOut: dOut!, delta: delta! };
        sum.run(on, { tensors, dims: { B: 1, Nq: 1, DV: 1 }, stored: 'f16' });
        return [];
      }).dispatches;
    expect(() => run(gpu)).toThrow(
      'attention/delta needs the feature shader-f16 for its tensors of f16',
    );
    const [dispatch] = run(new Gpu(able, summary, {}));
    expect(dispatch!.traffic).toBe(2);
    expect(dispatch!.spec.key).toContain('Stored=f16');
    const invert = kernel({
      ...{ file: 'norm/invert.wgsl', tensors: ['spread', 'invStd'], dims: ['C', 'eps'] },
      grid: () => [1, 1, 1],
      flops: () => 0,
      bytes: () => 0,
    });
    expect(() => invert.specialise({}, 'f16')).toThrow('no `alias Stored = f32;`');
  });

  test('that the device has, or none, launch', () => {
    const portable = { workgroupBytes: 16384, invocations: 256, storageBuffers: 8 };
    for (const made of [fill(portable), fill(undefined)]) {
      expect(canRun(gpu, made)).toBe(true);
      expect(launch(made)).toHaveLength(1);
    }
  });
});

describe('grids', () => {
  test('past the limit are an error where the file cannot fold them', () => {
    expect(() => launch(fill(undefined, 101))).toThrow(
      'pointwise/fill: grid 101×1×1 passes the limit of 100 workgroups',
    );
    expect(launch(fill(undefined, 100))).toHaveLength(1);
  });

  test('are folded into one that holds every workgroup, and less than a row of others', () => {
    const axis = fc.integer({ min: 1, max: 3_000_000 });
    fc.assert(
      fc.property(
        axis,
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 40 }),
        (...g) => {
          const [x, y, z] = foldGrid(g, 65_535);
          expect(Math.max(x, y, z)).toBeLessThanOrEqual(65_535);
          const surplus = x * y * z - g[0] * g[1] * g[2];
          expect(surplus).toBeGreaterThanOrEqual(0);
          expect(surplus).toBeLessThan(y * z);
        },
      ),
    );
  });

  const root = fileURLToPath(new URL('../../kernels', import.meta.url));
  const families = ['attention', 'conv', 'matmul'];
  const folding = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .map((file) => file.replaceAll('\\', '/'))
    .filter((file) => file.endsWith('.wgsl') && /^const FOLDED = false;$/m.test(sourceOf(file)))
    .sort();

  test('are folded by every file of the products that does not lay its threads in a row', () => {
    const rows = /(direct|frame|pack|sum_parts|materialised)/;
    const all = readdirSync(root, { recursive: true, encoding: 'utf8' })
      .map((file) => file.replaceAll('\\', '/'))
      .filter((file) => file.endsWith('.wgsl') && families.includes(file.split('/')[0] ?? ''));
    expect(folding).toEqual(all.filter((file) => !rows.test(file)).sort());
  });

  test.each(folding)('%s is valid WGSL when folded', async (file) => {
    const code = rewriteConst(sourceOf(file), 'FOLDED', 'true');
    const module = able.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    expect(messages.map((m) => `${m.lineNum}:${m.linePos} ${m.message}`)).toEqual([]);
    for (const entryPoint of entriesOf(code)) {
      able.pushErrorScope('validation');
      able.createComputePipeline({ layout: 'auto', compute: { module, entryPoint } });
      expect((await able.popErrorScope())?.message, entryPoint).toBeUndefined();
    }
  });
});
