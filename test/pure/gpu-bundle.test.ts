import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

interface Written {
  read: (name: string) => string;
  json: (name: string) => unknown;
  log: string;
}
interface Part {
  name: string;
  seconds: number;
  command: string[];
  headline: (written: Written) => string;
}
interface Lock {
  packages: Record<string, object>;
}

// The bundle is plain JavaScript, since it runs where TypeScript is not; the tests name its types here.
const load = (name: string): Promise<unknown> =>
  import(new URL(`../../scripts/bundle/${name}.mjs`, import.meta.url).href);
const parts = (await load('parts')) as {
  TOTAL_SECONDS: number;
  PREPARING_SECONDS: number;
  gpuParts(place: object): Part[];
  chooseParts(parts: Part[], names?: string[]): Part[];
  allowance(part: { seconds: number }, saved: number): number;
  stateOf: (code: number) => string;
  table(rows: string[][]): string;
};
const closure = (await load('closure')) as {
  packageClosure(
    lock: Lock,
    roots: string[],
    options?: { without?: string[]; isInstalled?: (path: string) => boolean },
  ): string[];
  isRead(path: string): boolean;
};
const vulkan = (await load('vulkan')) as {
  waysToDriver(found: {
    manifests: string[];
    libraries: string[];
    helpers: string | null;
    write: (library: string) => string;
  }): { name: string; env: Record<string, string>; folders: string[] }[];
};

const place = {
  patience: 1,
  node: '/w/bin/node',
  work: '/w',
  out: '/out',
  cache: '/w/cache',
  cores: 16,
};
const onGpu = parts.gpuParts({ ...place, software: null });
const onLavapipe = parts.gpuParts({ ...place, software: 'lavapipe' });
const partNamed = (name: string) => onGpu.find((part) => part.name === name)!;

describe('the parts', () => {
  test.each([
    ['a GPU', onGpu],
    ['a software driver', onLavapipe],
  ])('on %s fit in eight minutes together, with what comes before them', (_, list) => {
    const sum = list.reduce((total, { seconds }) => total + seconds, parts.PREPARING_SECONDS);
    expect(sum).toBeLessThanOrEqual(parts.TOTAL_SECONDS);
    expect(parts.TOTAL_SECONDS).toBe(8 * 60);
  });

  test('have names of their own, and come in the order of the issue', () => {
    const names = onGpu.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    const order = ['doctor', 'dispatch', 'tests', 'tune', 'bench-attention', 'peers-matmul'];
    expect(names.filter((name) => order.includes(name))).toEqual(order);
    expect(names.at(-1)).toBe('train-64-f16');
  });

  test('however long each takes of what it is allowed, the last ends in time', () => {
    const shares = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), {
      minLength: onGpu.length,
      maxLength: onGpu.length,
    });
    fc.assert(
      fc.property(shares, fc.double({ min: 0, max: 1, noNaN: true }), (used, prepared) => {
        let elapsed = parts.PREPARING_SECONDS * prepared;
        let due = parts.PREPARING_SECONDS;
        onGpu.forEach((part, i) => {
          const seconds = parts.allowance(part, due - elapsed);
          expect(seconds).toBeGreaterThanOrEqual(part.seconds);
          expect(seconds).toBeLessThanOrEqual(2 * part.seconds);
          due += part.seconds;
          elapsed += seconds * used[i]!;
        });
        expect(elapsed).toBeLessThanOrEqual(parts.TOTAL_SECONDS);
      }),
    );
  });

  test('are chosen by name or by the beginning of one', () => {
    const chosen = (...names: string[]) => parts.chooseParts(onGpu, names).map(({ name }) => name);
    expect(chosen('train', 'doctor')).toEqual(['doctor', 'train-tiny', 'train-64-f16']);
    expect(chosen('bench-conv')).toEqual(['bench-conv']);
    expect(parts.chooseParts(onGpu)).toBe(onGpu);
    expect(() => chosen('bench-con')).toThrow('--only bench-con: there is doctor, dispatch, ');
  });

  test('of a software driver are some of those of a GPU', () => {
    const names = onGpu.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(onLavapipe.map(({ name }) => name)));
  });

  test('run the device tests of the driver in use, side by side on a GPU', () => {
    const flags = (list: Part[]) => list.find(({ name }) => name === 'tests')!.command;
    expect(flags(onGpu)).toEqual(
      expect.arrayContaining(['--project=device-auto', '--fileParallelism', '--maxWorkers=4']),
    );
    expect(flags(onLavapipe)).toContain('--project=device-lavapipe');
    expect(flags(onLavapipe)).not.toContain('--fileParallelism');
  });
});

describe('the headline', () => {
  const nothing = () => {
    throw new Error('not written');
  };

  test('of the tests is of their report, or of their lines where time was up', () => {
    const { headline } = partNamed('tests');
    const report = { numPassedTests: 7, numFailedTests: 1, numPendingTests: 2 };
    expect(headline({ read: nothing, json: () => report, log: '' })).toBe(
      '7 passed, 1 failed, 2 skipped',
    );
    const log = [
      ' ✓ |device-auto| test/device/matmul.test.ts > matmul > 1×1 12ms',
      ' ✓ |device-auto| test/device/matmul.test.ts > matmul > 7×5 12ms',
      ' × |device-auto| test/device/conv.test.ts > conv > 3×3 20ms',
      '   → expected 1 to be 2',
    ].join('\n');
    expect(headline({ read: nothing, json: nothing, log })).toBe(
      '2 passed, 1 failed, then time was up',
    );
  });

  test('of a training is its steps and its fastest rate', () => {
    const lines = [
      { step: 10, imagesPerSecond: 119.6 },
      { step: 20, imagesPerSecond: 90 },
    ].map((line) => `${JSON.stringify(line)}\n`);
    const read = (name: string) => (name === 'train-64-f16-metrics.jsonl' ? lines.join('') : '');
    expect(partNamed('train-64-f16').headline({ read, json: nothing, log: '' })).toBe(
      '20 steps, 120 images/s',
    );
  });

  test('of a bench is its fastest rung, with its share of the peak', () => {
    const rung = (name: string, gflops?: number, percentOfPeak?: number) => ({
      ...{ rung: name, gflops, percentOfPeak },
    });
    const rungs = [rung('1_naive', 200, 2), rung('5_lanes', 30_500, 61), rung('6_left')];
    const json = () => ({ cases: [{ label: '4096³', pass: 'forward', rungs }] });
    expect(partNamed('bench-matmul').headline({ read: nothing, json, log: '' })).toBe(
      '4096³ forward, 5_lanes: 30.5 TFLOP/s, 61 %',
    );
    const none = () => ({ cases: [] });
    expect(partNamed('bench-matmul').headline({ read: nothing, json: none, log: '' })).toBe(
      'nothing was timed',
    );
  });
});

test('the state is what `timeout` says', () => {
  expect([0, 1, 2, 124, 127, 137].map(parts.stateOf)).toEqual([
    ...['ok', 'failed', 'failed', 'timed out', 'failed', 'timed out'],
  ]);
});

test('a table has columns, and no blanks at the end of a line', () => {
  const rows = [
    ['part', 'result', ''],
    ['tests', 'timed out', '3 passed'],
  ];
  expect(parts.table(rows)).toBe('part   result\ntests  timed out  3 passed');
});

describe('the packages of the bundle', () => {
  const lock: Lock = {
    packages: {
      '': {},
      'node_modules/a': {
        dependencies: { b: '1', c: '1' },
        optionalDependencies: { 'c-x64': '1' },
      },
      'node_modules/a/node_modules/b': { dependencies: { c: '1' } },
      'node_modules/b': { dependencies: { a: '1' } },
      'node_modules/c': {
        peerDependencies: { d: '1', e: '1' },
        peerDependenciesMeta: { e: { optional: true } },
      },
      'node_modules/c-x64': {},
      'node_modules/d': {},
      'node_modules/e': {},
      'node_modules/unused': {},
    },
  };

  test('are found as Node finds them: the nearest first, needed peers too, circles cut', () => {
    const found = closure.packageClosure(lock, ['a']);
    const names = ['a', 'a/node_modules/b', 'c', 'c-x64', 'd'].map(
      (name) => `node_modules/${name}`,
    );
    expect(found).toEqual(names);
    expect(closure.packageClosure(lock, ['b'])).toContain('node_modules/a/node_modules/b');
  });

  test('are optional where they are not installed, and an error where they are not known', () => {
    const isInstalled = (path: string) => !path.endsWith('x64');
    expect(closure.packageClosure(lock, ['a'], { isInstalled })).not.toContain(
      'node_modules/c-x64',
    );
    expect(closure.packageClosure(lock, ['a'], { without: ['c'] })).toEqual([
      ...['node_modules/a', 'node_modules/a/node_modules/b', 'node_modules/c-x64'],
    ]);
    expect(() => closure.packageClosure(lock, ['ghost'])).toThrow('the root needs ghost');
  });

  test('of this project are found, down to the driver and the test runner', () => {
    const file = fileURLToPath(new URL('../../package-lock.json', import.meta.url));
    const own = JSON.parse(readFileSync(file, 'utf8')) as Lock;
    const found = closure.packageClosure(own, ['webgpu', 'vitest'], { without: ['@webgpu/types'] });
    expect(found).toEqual(expect.arrayContaining(['node_modules/webgpu', 'node_modules/vite']));
    expect(found).not.toContain('node_modules/eslint');
  });

  test.each([
    ['dist/index.js', true],
    ['LICENSE.md', true],
    ['dist/linux-x64/dawn.node', true],
    ['dist/index.d.cts', false],
    ['dist/index.js.map', false],
    ['README.md', false],
    ['dist/darwin-universal/dawn.node', false],
    ['dist/win32-x64/dawn.node', false],
    ['lib/darwin.js', true],
  ])('hold %s: %s', (path, read) => {
    expect(closure.isRead(path)).toBe(read);
  });
});

describe('the ways to a driver', () => {
  const write = (library: string) => `/made${library}.json`;
  const names = (found: Parameters<typeof vulkan.waysToDriver>[0]) =>
    vulkan.waysToDriver(found).map(({ name }) => name);

  test('begin with the system; without NVIDIA there is no other', () => {
    const found = { manifests: [], libraries: [], helpers: '/w/helpers', write };
    expect(names(found)).toEqual(['as the system has it']);
  });

  test('go on with manifests that the loader does not know, then with made ones, then with helpers', () => {
    const manifests = [
      '/usr/share/vulkan/icd.d/nvidia_icd.json',
      '/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json',
    ];
    const libraries = ['/lib/libGLX_nvidia.so.0'];
    const plain = [
      'as the system has it',
      manifests[1]!,
      'a manifest made for /lib/libGLX_nvidia.so.0',
    ];
    const found = { manifests, libraries, helpers: null, write };
    expect(names(found)).toEqual(plain);
    const helped = plain.map((name) => `${name}, helped by the bundle's libraries of X and EGL`);
    expect(names({ ...found, helpers: '/w/helpers' })).toEqual([...plain, ...helped]);
    const made = '/made/lib/libGLX_nvidia.so.0.json';
    expect(vulkan.waysToDriver({ ...found, helpers: '/w/helpers' }).at(-1)).toMatchObject({
      env: { VK_DRIVER_FILES: made, VK_ICD_FILENAMES: made },
      folders: ['/lib', '/w/helpers'],
    });
  });
});

describe('run.mjs, before it looks for a driver', () => {
  const script = fileURLToPath(new URL('../../scripts/bundle/run.mjs', import.meta.url));
  const here = fileURLToPath(new URL('.', import.meta.url));
  const complaint = (...args: string[]) => {
    const { status, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' });
    expect(status).toBe(2);
    return stderr;
  };

  test('refuses a mistake in one line', () => {
    expect(complaint('--only', 'nothing', 'out')).toMatch(
      /^gpu-run: --only nothing: there is [^\n]+\n$/,
    );
    expect(complaint('--patience', '0', 'out')).toBe(
      'gpu-run: --patience 0 is not a number above 0\n',
    );
    expect(complaint()).toBe('gpu-run: 0 folders were named for the results, not one\n');
  });

  test('refuses a folder with files in it: old numbers would pass for new ones', () => {
    expect(complaint(here)).toMatch(
      /^gpu-run: .+ is not empty: name a new folder for the results\n$/,
    );
  });
});

describe.runIf(process.platform === 'linux')('gpu-run, before it unpacks anything', () => {
  const script = fileURLToPath(new URL('../../scripts/bundle/gpu-run', import.meta.url));

  test('is sound bash', () => {
    execFileSync('bash', ['-n', script]);
  });

  test('without a folder says how it is called, and that it was a mistake', () => {
    const { status, stderr } = spawnSync('bash', [script], { encoding: 'utf8' });
    expect(status).toBe(2);
    expect(stderr).toContain('gpu-run [--only PART,…] [--patience FACTOR] OUT');
    expect(stderr).not.toContain('#');
  });
});
