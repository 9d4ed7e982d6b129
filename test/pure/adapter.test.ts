import { describe, expect, test } from 'vitest';
import { kindOf, rankAdapters, matrixTiles } from '../../src/gpu/adapter.ts';

const info = (vendor: string, device: string, more: Partial<GPUAdapterInfo> = {}) => ({
  ...{ vendor, device, architecture: '', description: '', isFallbackAdapter: false },
  ...more,
});

describe('an adapter’s kind', () => {
  test.each([
    ['nvidia', 'NVIDIA H100 80GB HBM3', 'discrete'],
    ['amd', 'AMD Radeon RX 7900 XTX', 'discrete'],
    ['intel', 'Intel(R) Arc(TM) A770 Graphics', 'discrete'],
    ['intel', 'Intel(R) UHD Graphics 630', 'integrated'],
    ['apple', 'Apple M2', 'integrated'],
    ['qualcomm', 'Adreno 740', 'integrated'],
    ['mesa', 'llvmpipe (LLVM 15.0.6, 256 bits)', 'software'],
    ['google', 'SwiftShader Device (LLVM 10.0.0)', 'software'],
    ['microsoft', 'Microsoft Basic Render Driver', 'software'],
  ])('%s %s is %s', (vendor, device, kind) => {
    expect(kindOf(info(vendor, device))).toBe(kind);
  });

  test('is software where WebGPU calls it a fallback', () => {
    expect(kindOf(info('nvidia', 'anything', { isFallbackAdapter: true }))).toBe('software');
  });
});

describe('the choice of an adapter', () => {
  const adapter = (kind: 'discrete' | 'integrated' | 'software', name: string) => ({
    ...{ kind, name, description: `${name} driver` },
  });
  const all = [
    adapter('software', 'llvmpipe'),
    adapter('integrated', 'UHD Graphics'),
    adapter('discrete', 'RTX 4090'),
    adapter('discrete', 'RTX 3060'),
  ];
  const names = (wanted: string) => rankAdapters(all, wanted).map((a) => a.name);

  test('is discrete before integrated before software, else as they came', () => {
    expect(names('auto')).toEqual(['RTX 4090', 'RTX 3060', 'UHD Graphics', 'llvmpipe']);
  });

  test('is by kind or by a part of the name', () => {
    expect(names('software')).toEqual(['llvmpipe']);
    expect(names('integrated')).toEqual(['UHD Graphics']);
    expect(names('rtx 30')).toEqual(['RTX 3060']);
    expect(names('LLVMPIPE driver')).toEqual(['llvmpipe']);
    expect(names('voodoo')).toEqual([]);
  });
});

test('tensor cores are those of f16 with f32 sums, largest first, for subgroups of one size', () => {
  const adapter = {
    features: ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'],
    matrixConfigs: ['i8→i32 16×16×32', 'f16→f32 16×8×16', 'f16→f16 16×16×16', 'f16→f32 16×16×16'],
    subgroupSizes: [32, 32],
  } as const;
  expect(matrixTiles(adapter)).toEqual([
    { MM: 16, MN: 16, MK: 16, LANES: 32 },
    { MM: 16, MN: 8, MK: 16, LANES: 32 },
  ]);
  expect(matrixTiles({ ...adapter, subgroupSizes: [8, 32] })).toEqual([]);
  expect(matrixTiles({ ...adapter, features: adapter.features.slice(1) })).toEqual([]);
  expect(matrixTiles({ ...adapter, matrixConfigs: ['f16→f16 8×8×8'] })).toEqual([]);
});
