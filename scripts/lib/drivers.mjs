// The Vulkan drivers of this machine: what the system has, what the cache has, and bringing one into the cache.
// src/gpu/platform.ts reads the manifests that are written here.
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OLDEST_MESA, fetchLavapipe, hasApt } from './lavapipe.mjs';
import { satisfies } from './debian.mjs';
import { SetupError, complaint, megabytes, run, sizeOf, writeWhole } from './process.mjs';
import { root } from './source.mjs';
import { fetchSwiftshader } from './swiftshader.mjs';

export const SOFTWARE = ['lavapipe', 'swiftshader'];

const cacheRoot = () => process.env.XDG_CACHE_HOME || join(os.homedir(), '.cache');
export const driversFolder = () => join(cacheRoot(), 'wgsagan', 'drivers');

/** The manifest of a cached driver all of whose files are there, else null. */
export function cachedDriver(name) {
  try {
    const manifest = JSON.parse(readFileSync(join(driversFolder(), `${name}.json`), 'utf8'));
    const { library_path: library } = JSON.parse(readFileSync(manifest.icd, 'utf8')).ICD;
    return [library, ...manifest.preload].every((path) => existsSync(path)) ? manifest : null;
  } catch {
    return null;
  }
}

/**
 * Opens a driver in a child process, through the engine's own code.
 * @param {'system' | 'lavapipe' | 'swiftshader'} driver
 * @returns {Promise<{ adapters: { name: string, software: boolean }[], problem: string }>}
 */
export async function probe(driver, cache = cacheRoot()) {
  const script = fileURLToPath(new URL('probe.mjs', import.meta.url));
  const env = { ...process.env, XDG_CACHE_HOME: cache };
  const result = await run(process.execPath, [script, driver], { env, timeoutMs: 60_000 });
  try {
    return { adapters: JSON.parse(result.stdout.trim().split('\n').at(-1)), problem: '' };
  } catch {
    const error = /^.*(?:Error|error|cannot open).*$/m.exec(result.stderr)?.[0];
    const problem = (error ?? complaint(result.stderr)) || `exit ${result.code}`;
    return { adapters: [], problem };
  }
}

/** The adapters of the system's own drivers; asked anew only when drivers, devices or Dawn have changed. */
export async function systemAdapters() {
  const file = join(driversFolder(), 'system.json');
  const key = systemKey();
  try {
    const known = JSON.parse(readFileSync(file, 'utf8'));
    if (known.key === key) return known;
  } catch {
    // Not asked yet.
  }
  const found = await probe('system');
  // A failure may pass (a GPU in use, a time-out): only an answer is remembered.
  if (found.problem === '') writeWhole(file, `${JSON.stringify({ key, ...found }, null, 2)}\n`);
  return found;
}

function systemKey() {
  const list = (folder) => {
    const names = existsSync(folder) ? readdirSync(folder).sort() : [];
    return names.map((name) => {
      const path = join(folder, name);
      return [path, statSync(path, { throwIfNoEntry: false })?.mtimeMs];
    });
  };
  const dawn = readFileSync(join(root, 'package.json'), 'utf8');
  const nvidia = existsSync('/dev')
    ? readdirSync('/dev').filter((n) => /^(nvidia|dxg)/.test(n))
    : [];
  const home = process.env.XDG_DATA_HOME || join(os.homedir(), '.local', 'share');
  const icds = ['/etc', '/usr/share', '/usr/local/share', home].map((f) =>
    join(f, 'vulkan', 'icd.d'),
  );
  const dri = existsSync('/dev/dri') ? readdirSync('/dev/dri').sort() : [];
  const loaders = [
    '/usr/lib',
    '/usr/lib64',
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
  ];
  const facts = [
    JSON.parse(dawn).dependencies.webgpu,
    process.arch,
    nvidia,
    dri,
    icds.map(list),
    loaders.map((folder) => existsSync(join(folder, 'libvulkan.so.1'))),
    SOFTWARE.map((name) => cachedDriver(name) !== null),
    process.env.VK_DRIVER_FILES,
    process.env.VK_ICD_FILENAMES,
  ];
  return createHash('sha256').update(JSON.stringify(facts)).digest('hex');
}

/** Is a working software driver of the system as good as the one that set-up would bring? */
export function isGoodLavapipe({ name }) {
  const version = /^llvmpipe.*Mesa (\d+[\w.]*)/.exec(name)?.[1];
  return version !== undefined && satisfies(version, `>= ${OLDEST_MESA}`);
}

/** Brings a software driver into the cache; nothing of the system is changed. Throws a SetupError that says why not. */
export async function bringDriver(name, say) {
  if (name === 'lavapipe' && !(await hasApt())) {
    throw new SetupError(
      'lavapipe is taken from Debian and Ubuntu packages, and this system has no apt',
    );
  }
  const began = performance.now();
  mkdirSync(driversFolder(), { recursive: true });
  removeStaging();
  const staging = mkdtempSync(join(driversFolder(), '.staging-'));
  const cleanUp = () => rmSync(staging, { recursive: true, force: true });
  const interrupted = () => {
    cleanUp();
    process.exit(130);
  };
  process.once('SIGINT', interrupted);
  try {
    const fetch = name === 'lavapipe' ? fetchLavapipe : fetchSwiftshader;
    const fetched = await fetch({ staging, say });
    const adapter = await install(name, fetched, staging);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const kept = megabytes(sizeOf(join(driversFolder(), folderName(name, fetched.version))));
    say(
      `${adapter} works: ${megabytes(fetched.bytes)} downloaded, ${kept} kept in ${driversFolder()}, ${seconds} s`,
    );
  } finally {
    process.removeListener('SIGINT', interrupted);
    cleanUp();
  }
}

const folderName = (name, version) => `${name}-${version.replace(/[^\w.+~-]/g, '_')}`;

/** Moves a fetched driver to its place, tries it, and only then publishes its manifest. Returns the adapter's name. */
async function install(name, { folder, version, libraries, driver }, staging) {
  const home = join(driversFolder(), folderName(name, version));
  const icd = join(home, 'icd.json');
  const description = { library_path: join(home, driver), api_version: '1.3.0' };
  const icdText = { file_format_version: '1.0.0', ICD: description };
  writeFileSync(join(folder, 'icd.json'), `${JSON.stringify(icdText, null, 2)}\n`);
  rmSync(home, { recursive: true, force: true });
  renameSync(folder, home);

  const preload = libraries.map((library) => join(home, library));
  const manifest = `${JSON.stringify({ name, version, icd, preload }, null, 2)}\n`;
  const trial = join(staging, 'trial');
  writeWhole(join(trial, 'wgsagan', 'drivers', `${name}.json`), manifest);
  const { adapters, problem } = await probe(name, trial);
  if (adapters.length === 0) {
    rmSync(home, { recursive: true, force: true });
    throw new SetupError(
      `${name} ${version} was unpacked but gives no adapter: ${problem || 'no reason given'}`,
    );
  }
  writeWhole(join(driversFolder(), `${name}.json`), manifest);
  removeOld(name, basename(home));
  return adapters[0].name;
}

/** What a killed set-up left. The caller holds the lock, so nobody else is at work here. */
function removeStaging() {
  removeEntries((entry) => entry.startsWith('.staging-'));
}

function removeOld(name, current) {
  removeEntries((entry) => entry.startsWith(`${name}-`) && entry !== current);
}

function removeEntries(isDoomed) {
  for (const entry of readdirSync(driversFolder()).filter(isDoomed)) {
    rmSync(join(driversFolder(), entry), { recursive: true, force: true });
  }
}
