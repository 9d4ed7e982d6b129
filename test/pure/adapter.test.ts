import { describe, expect, test } from 'vitest';
import { kindOf, rankAdapters } from '../../src/gpu/adapter.ts';

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
