import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';

interface Elf {
  soname: string | null;
  needed: string[];
}
type Package = Record<string, string>;

// The set-up is plain JavaScript, since it runs before TypeScript is there; the tests name its types here.
const load = (name: string): Promise<unknown> =>
  import(new URL(`../../scripts/lib/${name}.mjs`, import.meta.url).href);
const elf = (await load('elf')) as {
  readElf(bytes: Buffer): Elf | null;
  loadOrder(libraries: Map<string, { needed: string[] }>, roots: string[]): string[];
};
const debian = (await load('debian')) as {
  compareVersions(a: string, b: string): number;
  satisfies(version: string, relation: string): boolean;
  parseDepends(field: string): { name: string; relation: string }[][];
  parseSources(text: string, form: 'list' | 'sources'): unknown[];
  ownSources(sources: unknown[], options: { codename: string; backports?: boolean }): string;
};
const tar = (await load('tar')) as {
  readTar(archive: Buffer): { name: string; mode: number; data: Buffer }[];
};
const lavapipe = (await load('lavapipe')) as {
  resolve(
    first: Package,
    installed: Map<string, string>,
    lookUp: (names: string[]) => Promise<Package[]>,
  ): Promise<Package[]>;
};
const packages = (await load('packages')) as {
  lockAgrees(lock: unknown, installed: unknown): boolean;
};
const drivers = (await load('drivers')) as { isGoodLavapipe(adapter: { name: string }): boolean };
const processes = (await load('process')) as {
  withLock<T>(path: string, work: () => Promise<T>): Promise<T>;
};

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-setup-'));
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** A library with one loaded segment, whose strings lie at another address than their place in the file. */
function makeElf(soname: string | null, needed: string[]): Buffer {
  const strings = ['', ...(soname === null ? [] : [soname]), ...needed];
  const offsets = strings.map(
    (_, i) => Buffer.byteLength(strings.slice(0, i).join('\0')) + Math.min(i, 1),
  );
  const table = Buffer.from(strings.join('\0') + '\0');
  const entries: [number, number][] = needed.map((name) => [1, offsets[strings.indexOf(name)]!]);
  if (soname !== null) entries.push([14, offsets[1]!]);
  const dynamicAt = 64 + 2 * 56;
  const tableAt = dynamicAt + 16 * (entries.length + 2);
  const shift = 0x1000;
  entries.push([5, tableAt + shift], [0, 0]);

  const bytes = Buffer.alloc(tableAt + table.length);
  bytes.writeUInt32BE(0x7f454c46, 0);
  bytes.set([2, 1, 1], 4);
  bytes.writeBigUInt64LE(64n, 32);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(2, 56);
  const segment = (at: number, type: number, offset: number, length: number) => {
    bytes.writeUInt32LE(type, at);
    bytes.writeBigUInt64LE(BigInt(offset), at + 8);
    bytes.writeBigUInt64LE(BigInt(offset + shift), at + 16);
    bytes.writeBigUInt64LE(BigInt(length), at + 32);
  };
  segment(64, 1, 0, bytes.length);
  segment(120, 2, dynamicAt, tableAt - dynamicAt);
  entries.forEach(([tag, value], i) => {
    bytes.writeBigUInt64LE(BigInt(tag), dynamicAt + 16 * i);
    bytes.writeBigUInt64LE(BigInt(value), dynamicAt + 16 * i + 8);
  });
  table.copy(bytes, tableAt);
  return bytes;
}

describe('the ELF reader', () => {
  test('reads the name and the needs of a library', () => {
    const made = makeElf('libone.so.1', ['libtwo.so.2', 'libc.so.6']);
    expect(elf.readElf(made)).toEqual({
      soname: 'libone.so.1',
      needed: ['libtwo.so.2', 'libc.so.6'],
    });
    expect(elf.readElf(makeElf(null, ['libc.so.6']))).toEqual({
      soname: null,
      needed: ['libc.so.6'],
    });
  });

  test('refuses what is no library, or is cut short, with null', () => {
    expect(elf.readElf(Buffer.from('#!/bin/sh\n'.repeat(10)))).toBeNull();
    expect(elf.readElf(Buffer.alloc(0))).toBeNull();
    expect(elf.readElf(makeElf('libone.so.1', ['libc.so.6']).subarray(0, 130))).toBeNull();
  });

  test.runIf(process.platform === 'linux')(
    'agrees with the libraries this process has loaded',
    () => {
      const maps = readFileSync('/proc/self/maps', 'utf8');
      const libc = /(\/\S*\/libc\.so\.6|\/\S*\/ld-musl\S+)$/m.exec(maps)?.[1];
      expect(libc).toBeDefined();
      expect(elf.readElf(readFileSync(libc!))?.soname).toMatch(/^libc\.|^ld-musl/);
    },
  );

  test('orders libraries after what they need, leaves out the system’s, and survives a circle', () => {
    const libraries = new Map([
      ['driver', { needed: ['llvm', 'z', 'libc'] }],
      ['llvm', { needed: ['z', 'xml'] }],
      ['xml', { needed: ['llvm', 'libc'] }],
      ['z', { needed: [] }],
      ['unused', { needed: ['z'] }],
    ]);
    expect(elf.loadOrder(libraries, ['driver'])).toEqual(['z', 'xml', 'llvm', 'driver']);
  });
});

describe('Debian versions', () => {
  const ascending = [
    '0.9',
    '1.0~rc1-1',
    '1.0~rc1-1+b1',
    '1.0-1~bpo12+1',
    '1.0-1',
    '1.0-1+b1',
    '1.0-1+deb12u2',
    '1.0a-1',
    '1.0.1-1',
    '1.2-1',
    '1.10-1',
    '25.0.7-2',
    '1:0.5-1',
  ];

  test('are ordered as dpkg orders them', () => {
    const pairs = ascending.flatMap((a, i) =>
      ascending.map((b, j) => [a, b, Math.sign(i - j)] as const),
    );
    for (const [a, b, order] of pairs) {
      expect([a, b, Math.sign(debian.compareVersions(a, b))]).toEqual([a, b, order]);
    }
  });

  const hasDpkg = existsSync('/usr/bin/dpkg');
  test.runIf(hasDpkg)('agree with dpkg itself on random versions', () => {
    const part = fc.string({ unit: fc.constantFrom(...'0123456789ab~+.'.split('')), maxLength: 6 });
    const version = fc
      .tuple(fc.constantFrom('', '1:'), part, part)
      .map(([e, u, r]) => `${e}1${u}-1${r}`);
    fc.assert(
      fc.property(version, version, (a, b) => {
        const relation = { '-1': 'lt', '0': 'eq', '1': 'gt' }[
          String(Math.sign(debian.compareVersions(a, b)))
        ];
        execFileSync('dpkg', ['--compare-versions', a, relation!, b], { stdio: 'ignore' });
      }),
      { numRuns: 60 },
    );
  });

  test('satisfy relations', () => {
    expect(debian.satisfies('2.4.123-1~bpo12+1', '>= 2.4.121')).toBe(true);
    expect(debian.satisfies('2.4.114-1+b1', '>= 2.4.121')).toBe(false);
    expect(debian.satisfies('25.0.7-2~bpo12+1', '>= 25')).toBe(true);
    expect(debian.satisfies('22.3.6-1', '>= 25')).toBe(false);
    expect(debian.satisfies('1.0', '<< 1.0')).toBe(false);
    expect(debian.satisfies('1.0', '= 1.0')).toBe(true);
    expect(debian.satisfies('1.0', '')).toBe(true);
  });

  test('in a Depends field keep alternatives and drop architectures', () => {
    expect(debian.parseDepends('libdrm2:any (>= 2.4), a | b (<< 2:3~) , libc6')).toEqual([
      [{ name: 'libdrm2', relation: '>= 2.4' }],
      [
        { name: 'a', relation: '' },
        { name: 'b', relation: '<< 2:3~' },
      ],
      [{ name: 'libc6', relation: '' }],
    ]);
  });
});

describe('apt sources', () => {
  const deb822 = `Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 AAAA

Enabled: no
Types: deb
URIs: http://mirror.example/off
Suites: bookworm
Components: main

Types: deb
URIs: https://vendor.example/apt
Suites: nodistro
Components: main
`;

  test('in deb822 form keep the key, also one that is written out, and leave out third parties', () => {
    const text = debian.ownSources(debian.parseSources(deb822, 'sources'), {
      codename: 'bookworm',
      backports: true,
    });
    expect(text).toBe(`Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: 
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 AAAA
`);
  });

  test('in one-line form keep the key and the architectures', () => {
    const list = `# deb http://off.example x main
deb [arch=amd64,arm64 signed-by=/k.gpg] http://mirror.example/ubuntu noble main restricted universe # note
deb-src http://mirror.example/ubuntu noble main
deb cdrom:[disc] noble main
deb https://ppa.example/x noble-special main
`;
    const text = debian.ownSources(debian.parseSources(list, 'list'), { codename: 'noble' });
    expect(text).toBe(`Types: deb
URIs: http://mirror.example/ubuntu
Suites: noble
Components: main universe
Architectures: amd64 arm64
Signed-By: /k.gpg
`);
  });

  test('of another release give nothing', () => {
    const sources = debian.parseSources(deb822, 'sources');
    expect(debian.ownSources(sources, { codename: 'trixie' })).toBe('');
  });
});

describe('the choice of packages', () => {
  const shelf: Package[] = [
    { package: 'libdrm2', version: '2.4.114-1', depends: 'libc6 (>= 2.30)' },
    { package: 'libdrm2', version: '2.4.123-1~bpo12+1', depends: 'libdrm-common (>= 2.4.123)' },
    { package: 'libdrm-common', version: '2.4.114-1' },
    { package: 'libdrm-common', version: '2.4.123-1~bpo12+1' },
    { package: 'libvulkan1', version: '1.3.239-1' },
    { package: 'libvulkan1', version: '1.4.0-1~bpo12+1' },
  ];
  const lookUp = async (names: string[]) => shelf.filter((p) => names.includes(p['package']!));
  const mesa = {
    package: 'mesa',
    version: '25.0.7-2~bpo12+1',
    depends: 'libc6 (>= 2.34), libdrm2 (>= 2.4.121), libvulkan1, libexpat1, ghost | libz1, virtual',
  };
  const installed = { libc6: '2.36-9', libdrm2: '2.4.114-1', libexpat1: '2.5.0-1', libz1: '1.2' };

  test('takes what is missing or too old, prefers the release, and leaves the rest to the system', async () => {
    const chosen = await lavapipe.resolve(mesa, new Map(Object.entries(installed)), lookUp);
    const names = chosen.map((p) => `${p['package']!} ${p['version']!}`);
    expect(names.sort()).toEqual([
      'libdrm-common 2.4.123-1~bpo12+1',
      'libdrm2 2.4.123-1~bpo12+1',
      'libvulkan1 1.3.239-1',
      'mesa 25.0.7-2~bpo12+1',
    ]);
  });

  test('gives up where the C library is too old', async () => {
    const old = new Map(Object.entries({ ...installed, libc6: '2.31-1' }));
    await expect(lavapipe.resolve(mesa, old, lookUp)).rejects.toThrow('mesa needs a newer libc6');
  });
});

describe('the tar reader', () => {
  const long = `${'d'.repeat(90)}/${'e'.repeat(120)}.txt`;
  const content = new Map([
    ['a.txt', 'hello'],
    ['sub/empty', ''],
    [long, 'x'.repeat(1000)],
  ]);
  mkdirSync(join(folder, 'in', 'sub'), { recursive: true });
  mkdirSync(join(folder, 'in', 'd'.repeat(90)));
  for (const [name, text] of content)
    writeFileSync(join(folder, 'in', name), text, { mode: 0o640 });

  test.each(['ustar', 'gnu', 'pax'])('reads what tar writes in %s format', (format) => {
    const names = format === 'ustar' ? ['a.txt', 'sub/empty'] : [...content.keys()];
    const args = ['-C', join(folder, 'in'), `--format=${format}`, '-cf', '-', 'sub', ...names];
    const files = tar.readTar(execFileSync('tar', args));
    const read = new Map(files.map(({ name, data }) => [name, data.toString()]));
    for (const name of names) expect([name, read.get(name)]).toEqual([name, content.get(name)]);
    expect(files[0]!.mode & 0o777).toBe(0o640);
  });

  test('throws on an archive that is cut short or is none', () => {
    const archive = execFileSync('tar', ['-C', join(folder, 'in'), '-cf', '-', 'a.txt']);
    expect(() => tar.readTar(archive.subarray(0, 514))).toThrow('cut short');
    expect(() => tar.readTar(archive.subarray(0, 1024))).toThrow('cut short');
    expect(() => tar.readTar(Buffer.alloc(1024, 'z'))).toThrow('no tar header');
  });
});

describe('the state of the packages', () => {
  const lock = {
    packages: {
      '': { version: '0.1.0' },
      'node_modules/a': { version: '1.0.0' },
      'node_modules/b': { version: '2.0.0', optional: true },
    },
  };

  test('is fresh only if every package that is not optional has its version', () => {
    const installed = (all: Record<string, { version: string }>) => ({ packages: all });
    const a = { version: '1.0.0' };
    expect(packages.lockAgrees(lock, installed({ 'node_modules/a': a }))).toBe(true);
    expect(packages.lockAgrees(lock, installed({}))).toBe(false);
    expect(packages.lockAgrees(lock, installed({ 'node_modules/a': { version: '1.0.1' } }))).toBe(
      false,
    );
    const old = { 'node_modules/a': a, 'node_modules/b': { version: '1.9.0' } };
    expect(packages.lockAgrees(lock, installed(old))).toBe(false);
  });
});

test('a lavapipe of the system is good from Mesa 25 on', () => {
  const good = (name: string) => drivers.isGoodLavapipe({ name });
  expect(good('llvmpipe: Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6) 0.0.1')).toBe(true);
  expect(good('llvmpipe: Mesa 26.1.0 (LLVM 20.1.2, 256 bits)')).toBe(true);
  expect(good('llvmpipe: Mesa 24.3.4 (LLVM 19.1.0) 0.0.1')).toBe(false);
  expect(good('SwiftShader driver 5.0.0')).toBe(false);
});

describe('the lock between set-ups', () => {
  test('lets one at a time work', async () => {
    const path = join(folder, 'locks', 'one');
    let inside = 0;
    let most = 0;
    const work = async () => {
      most = Math.max(most, ++inside);
      await new Promise((resolve) => setTimeout(resolve, 20));
      inside--;
    };
    await Promise.all([1, 2, 3].map(() => processes.withLock(path, work)));
    expect(most).toBe(1);
    expect(existsSync(path)).toBe(false);
  });

  test('is taken over from a process that is gone', async () => {
    const child = spawn(process.execPath, ['-e', '']);
    await new Promise((resolve) => child.on('close', resolve));
    const path = join(folder, 'locks', 'dead');
    writeFileSync(path, String(child.pid));
    await expect(processes.withLock(path, async () => 'done')).resolves.toBe('done');
  });

  test('is released when the work fails', async () => {
    const path = join(folder, 'locks', 'failed');
    const broken = processes.withLock(path, async () => Promise.reject(new Error('no')));
    await expect(broken).rejects.toThrow('no');
    expect(existsSync(path)).toBe(false);
  });
});
