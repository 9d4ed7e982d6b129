// Shared libraries of this machine that go into the bundle: what a binary needs beyond the base of any Linux, the Vulkan
// loader, the helpers of NVIDIA's driver, and lavapipe.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { SOFTWARE, cachedDriver, driversFolder } from '../lib/drivers.mjs';
import { findLibraries, loadOrder, readElf } from '../lib/elf.mjs';
import { SetupError, run } from '../lib/process.mjs';

/** What any x86-64 Linux of the last years has: the C library, and the libraries of its compiler. */
const BASE = /^(linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s))[.-]/;
const LOADER = 'libvulkan.so.1';
/** NVIDIA's Vulkan driver opens these, and a machine without a screen may lack them. */
const HELPERS = ['libX11.so.6', 'libXext.so.6', 'libEGL.so.1', 'libGLdispatch.so.0'];

/** The names of libraries that a binary needs and that are not of the base. */
export function foreignNeeds(path) {
  return (readElf(readFileSync(path))?.needed ?? []).filter((name) => !BASE.test(name));
}

/** The path of a library that the system's loader finds by name, or null. */
export async function systemLibrary(name) {
  const { stdout } = await run('ldconfig', ['-p'], { env: { PATH: '/usr/sbin:/sbin:/usr/bin' } });
  const line = stdout.split('\n').find((one) => one.trim().startsWith(`${name} (libc6,x86-64`));
  return line?.split(' => ')[1] ?? null;
}

/** Every library, by path, that these binaries load, the base included. */
export async function neededPaths(binaries) {
  const found = new Set();
  for (const binary of binaries) {
    const { stdout } = await run('ldd', [binary]);
    for (const [, path] of stdout.matchAll(/(\/\S+) \(0x/g)) found.add(path);
  }
  return [...found];
}

/** Copies what a binary loads beyond the base into `folder`; a path in `first` is taken before the system's of that name. */
export async function copyNeeds(binary, folder, first = []) {
  for (const path of await neededPaths([binary])) {
    const name = basename(path);
    if (path === binary || BASE.test(name)) continue;
    copyFileSync(first.find((one) => basename(one) === name) ?? path, join(folder, name));
  }
}

/** The Vulkan loader of a driver that set-up cached, else the system's. */
export async function copyLoader(folder) {
  const cached = SOFTWARE.flatMap((name) => cachedDriver(name)?.preload ?? []);
  const found = cached.find((path) => basename(path) === LOADER) ?? (await systemLibrary(LOADER));
  if (found === null) {
    const remedy = 'run `npm run setup -- --driver lavapipe`';
    throw new SetupError(`there is no ${LOADER} in ${driversFolder()} or on the system: ${remedy}`);
  }
  mkdirSync(folder, { recursive: true });
  copyFileSync(found, join(folder, LOADER));
}

/** Those of NVIDIA's helpers that this machine has. Returns the names of the others. */
export async function copyHelpers(folder) {
  mkdirSync(folder, { recursive: true });
  const missing = [];
  for (const name of HELPERS) {
    const path = await systemLibrary(name);
    if (path === null) missing.push(name);
    else {
      copyFileSync(path, join(folder, name));
      await copyNeeds(path, folder);
    }
  }
  return missing;
}

/** lavapipe out of the cache with every library beneath it, and driver.json, which says in what order to load them. */
export async function copyLavapipe(folder) {
  const manifest = cachedDriver('lavapipe');
  if (manifest === null) {
    throw new SetupError('lavapipe is not in the cache: run `npm run setup -- --driver lavapipe`');
  }
  const { library_path: driver } = JSON.parse(readFileSync(manifest.icd, 'utf8')).ICD;
  const library = basename(driver);
  mkdirSync(folder, { recursive: true });
  copyFileSync(driver, join(folder, library));
  await copyNeeds(driver, folder, manifest.preload);
  const preload = loadOrder(findLibraries(folder), [library]).filter((name) => name !== library);
  const { name, version } = manifest;
  const described = { name, version, library, preload };
  writeFileSync(join(folder, 'driver.json'), `${JSON.stringify(described, null, 2)}\n`);
}
