#!/usr/bin/env node
// Makes a clone ready to run: npm's packages, and a Vulkan driver where the machine has none. `npm start` and
// `npm test` call it first. It needs nothing but Node, changes nothing of the system, and does nothing twice.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import {
  SOFTWARE,
  bringDriver,
  cachedDriver,
  driversFolder,
  isGoodLavapipe,
  systemAdapters,
} from './lib/drivers.mjs';
import { installPackages, linkBin, packagesAreFresh } from './lib/packages.mjs';
import { SetupError, withLock } from './lib/process.mjs';
import { isClone, root } from './lib/source.mjs';

const OLDEST_NODE = [20, 19];
const REMEDY =
  'install a Vulkan driver yourself: `apt install mesa-vulkan-drivers` (25 or newer), on Fedora ' +
  '`dnf install mesa-vulkan-drivers`, on Arch `pacman -S vulkan-swrast`, on Alpine `apk add mesa-vulkan-swrast`';

/**
 * Sets everything up.
 * @param {{ quiet?: boolean, check?: boolean, drivers?: string[], unlessGpu?: boolean }} options
 *   `drivers` brings these software drivers (with `unlessGpu`: only where there is no GPU); otherwise one is brought
 *   where the system has neither a GPU nor a good lavapipe. `check` changes nothing and throws if something is missing.
 * @returns {Promise<{ gpu: string | null, missing: string[] }>} the GPU's name; drivers that could not be brought
 */
export async function setup({
  quiet = false,
  check = false,
  drivers = [],
  unlessGpu = false,
} = {}) {
  checkNode();
  const say = (line) => {
    if (!quiet) process.stderr.write(`set-up: ${line}\n`);
  };
  if (isClone) await preparePackages({ check, say });
  return prepareDrivers({
    check,
    drivers,
    unlessGpu,
    say,
    warn: (line) => process.stderr.write(`set-up: ${line}\n`),
  });
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const [needMajor, needMinor] = OLDEST_NODE;
  if (major < needMajor || (major === needMajor && minor < needMinor)) {
    throw new SetupError(
      `wgsagan needs Node ${OLDEST_NODE.join('.')} or newer, and this is ${process.versions.node}: see https://nodejs.org`,
    );
  }
}

async function preparePackages({ check, say }) {
  if (!packagesAreFresh(root)) {
    if (check) throw new SetupError("npm's packages are missing or stale: run `npm run setup`");
    const id = createHash('sha256').update(root).digest('hex').slice(0, 16);
    await withLock(
      join(driversFolder(), '..', 'locks', `packages-${id}`),
      async () => {
        if (packagesAreFresh(root)) return;
        say('installing packages with npm');
        const began = performance.now();
        await installPackages(root);
        say(`packages installed in ${((performance.now() - began) / 1000).toFixed(1)} s`);
      },
      say,
    );
  }
  if (!check) linkBin(root);
}

async function prepareDrivers({ check, drivers, unlessGpu, say, warn }) {
  const system = await systemAdapters();
  const gpu = system.adapters.find(({ software }) => !software)?.name ?? null;
  const forced = gpu === null || !unlessGpu ? drivers : [];
  if (forced.length === 0) {
    const enough =
      gpu !== null ||
      system.adapters.some(isGoodLavapipe) ||
      SOFTWARE.some((name) => cachedDriver(name) !== null);
    // Where Metal and D3D12 find nothing, there is no Vulkan driver to bring either.
    const canBring = process.platform === 'linux';
    if (enough) return { gpu, missing: [] };
    if (check) throw new SetupError('there is no GPU and no software driver: run `npm run setup`');
    if (!canBring)
      throw new SetupError(`no GPU adapter was found (${system.problem || 'none is offered'})`);
    await withLock(lockPath(), () => bringFirst(SOFTWARE, { say, warn }), say);
    return { gpu, missing: [] };
  }
  const lacking = forced.filter((name) => cachedDriver(name) === null);
  if (check && lacking.length > 0) {
    throw new SetupError(`not in the cache: ${lacking.join(', ')}: run \`npm run setup\``);
  }
  const missing = [];
  for (const name of lacking) {
    await withLock(lockPath(), () => bringFirst([name], { say, warn }), say).catch((error) => {
      if (!(error instanceof SetupError)) throw error;
      missing.push(name);
    });
  }
  if (missing.length === forced.length) {
    throw new SetupError(`no software driver could be brought; ${REMEDY}`);
  }
  return { gpu, missing };
}

const lockPath = () => join(driversFolder(), '..', 'locks', 'drivers');

/** Brings the first of `names` that can be brought. Throws when none can. */
async function bringFirst(names, { say, warn }) {
  for (const name of names) {
    if (cachedDriver(name) !== null) return;
    try {
      await bringDriver(name, say);
      return;
    } catch (error) {
      if (!(error instanceof SetupError)) throw error;
      warn(error.message);
    }
  }
  throw new SetupError(`no software driver could be brought; ${REMEDY}`);
}

/** Runs a script's main function: prints a SetupError as one line, and sets the exit code. */
export async function runScript(main) {
  try {
    process.exitCode = await main();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`set-up: ${error.message}\n`);
    process.exitCode = 1;
  }
}

async function main() {
  const { values } = parseArgs({
    options: {
      driver: { type: 'string', multiple: true, default: [] },
      check: { type: 'boolean', default: false },
      quiet: { type: 'boolean', default: false },
    },
  });
  const unknown = values.driver.find((name) => !SOFTWARE.includes(name));
  if (unknown !== undefined) {
    throw new SetupError(`--driver ${unknown}: expected ${SOFTWARE.join(' or ')}`);
  }
  const { gpu, missing } = await setup({ ...values, drivers: values.driver });
  if (!values.quiet) {
    const cached = SOFTWARE.map(cachedDriver).filter((driver) => driver !== null);
    const names = [gpu, ...cached.map(({ name, version }) => `${name} ${version}`)].filter(Boolean);
    process.stderr.write(`set-up: ready; drivers: ${names.join(', ') || "the system's"}\n`);
  }
  return missing.length > 0 ? 1 : 0;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await runScript(main);
}
