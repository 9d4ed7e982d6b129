// lavapipe, Mesa's software Vulkan driver, out of the distribution's packages, without root: apt with folders of its
// own downloads the packages, and only the libraries that the system lacks are kept.
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import {
  compareVersions,
  ownSources,
  parseDepends,
  parseParagraphs,
  parseSources,
  satisfies,
} from './debian.mjs';
import { findLibraries, loadOrder } from './elf.mjs';
import { SetupError, complaint, megabytes, run, withProgress } from './process.mjs';

const PACKAGE = 'mesa-vulkan-drivers';
const DRIVER = 'libvulkan_lvp.so';
const LOADER = 'libvulkan.so.1';
/** Dawn refuses older ones (Debian 12's own 22.3: "shaderUniform*ArrayDynamicIndexing required"). */
export const OLDEST_MESA = '25';

/** Is this a system whose packages apt and dpkg-deb can bring? */
export async function hasApt() {
  if (process.platform !== 'linux') return false;
  const found = await Promise.all([run('apt-get', ['--version']), run('dpkg-deb', ['--version'])]);
  return found.every(({ code }) => code === 0);
}

/**
 * Downloads and unpacks lavapipe into `staging` and leaves a driver folder there.
 * @returns {Promise<{ folder: string, version: string, libraries: string[], driver: string, bytes: number }>}
 *   `libraries` are file names in `folder`, in the order in which to load them
 */
export async function fetchLavapipe({ staging, say, installed = installedVersions() }) {
  const apt = makeApt(staging);
  say('looking for lavapipe in the packages of this distribution');
  const packages = await findPackages(apt, installed);
  const bytes = packages.reduce((sum, p) => sum + Number(p.size), 0);
  const mesa = packages.find((p) => p.package === PACKAGE);
  say(`downloading ${PACKAGE} ${mesa.version}: ${packages.length} packages, ${megabytes(bytes)}`);

  const debs = join(staging, 'debs');
  mkdirSync(debs);
  const names = packages.map((p) => `${p.package}=${p.version}`);
  const download = apt('apt-get', ['download', ...names], debs);
  await withProgress(debs, download, (got) => say(`  ${megabytes(got)} of ${megabytes(bytes)}`));

  const unpacked = join(staging, 'unpacked');
  mkdirSync(unpacked);
  for (const deb of readdirSync(debs).filter((name) => name.endsWith('.deb'))) {
    const result = await run('dpkg-deb', ['-x', join(debs, deb), unpacked]);
    if (result.code !== 0)
      throw new SetupError(`${deb} does not unpack: ${complaint(result.stderr)}`);
  }
  const folder = join(staging, 'driver');
  const libraries = keepNeeded(unpacked, folder);
  return { folder, version: mesa.version, libraries, driver: DRIVER, bytes };
}

/** Copies the driver and the libraries that it and the loader need, and were not on the system, into one flat folder. */
function keepNeeded(unpacked, folder) {
  mkdirSync(folder);
  const found = findLibraries(unpacked);
  const driver = found.get(DRIVER);
  if (!driver) throw new SetupError(`${PACKAGE} holds no ${DRIVER} for this kind of processor`);
  const order = loadOrder(found, [DRIVER, LOADER]);
  for (const name of order) copyFileSync(found.get(name).path, join(folder, name));
  return order.filter((name) => name !== DRIVER);
}

/** Runs apt with its lists, cache and sources below `staging`; first over the release, then over its backports. */
function makeApt(staging) {
  const folder = join(staging, 'apt');
  for (const name of ['lists/partial', 'cache/archives/partial', 'sources']) {
    mkdirSync(join(folder, name), { recursive: true });
  }
  // The system's proxy settings stay; its hooks (desktop notices, cache sweeping) go.
  const settings = {
    'Dir::Etc::sourcelist': '/dev/null',
    'Dir::Etc::sourceparts': join(folder, 'sources'),
    'Dir::State::lists': join(folder, 'lists'),
    'Dir::Cache': join(folder, 'cache'),
    'Dir::Cache::archives': join(folder, 'cache', 'archives'),
    'APT::Sandbox::User': process.getuid() === 0 ? 'root' : '',
    'Acquire::Languages': 'none',
    'Acquire::Retries': '3',
  };
  const config = join(folder, 'apt.conf');
  const hooks = ['APT::Update', 'DPkg::Pre-Invoke', 'DPkg::Post-Invoke'];
  const cleared = [
    'Acquire::IndexTargets::deb::Contents-deb',
    'Acquire::IndexTargets::deb::DEP-11',
    ...hooks,
  ];
  writeFileSync(
    config,
    cleared.map((name) => `#clear ${name};\n`).join('') +
      Object.entries(settings)
        .filter(([, value]) => value !== '')
        .map(([name, value]) => `${name} "${value}";\n`)
        .join(''),
  );
  const env = { ...process.env, LC_ALL: 'C' };
  const apt = async (program, args, cwd = folder) => {
    const result = await run(program, ['-q', '-c', config, ...args], { cwd, env });
    if (result.code !== 0)
      throw new SetupError(`${program} ${args[0]}: ${complaint(result.stderr)}`);
    return result;
  };
  apt.useSources = (text) => {
    writeFileSync(join(folder, 'sources', 'wgsagan.sources'), text);
    return apt('apt-get', ['update']);
  };
  return apt;
}

/** The packages to download: Mesa's drivers, and of their dependencies those that the system lacks or has too old. */
async function findPackages(apt, installed) {
  const codename = /^VERSION_CODENAME="?([\w-]+)/m.exec(
    readFileSync('/etc/os-release', 'utf8'),
  )?.[1];
  if (!codename) throw new SetupError('/etc/os-release names no release of a distribution');
  const sources = readSources();
  const newEnough = (p) => satisfies(p.version, `>= ${OLDEST_MESA}`);
  let best;
  let trouble = '';
  for (const backports of [false, true]) {
    const text = ownSources(sources, { codename, backports });
    if (text === '') throw new SetupError(`no apt source of this machine serves ${codename}`);
    trouble = (await apt.useSources(text)).stderr;
    const offered = await show(apt, [PACKAGE]);
    best = offered.filter(newEnough).sort((a, b) => compareVersions(b.version, a.version))[0];
    if (best) break;
  }
  if (!best) {
    // Without a network apt only warns, and then has nothing to offer.
    const failure = trouble.includes('Failed to fetch') ? ` (${complaint(trouble)})` : '';
    throw new SetupError(
      `${codename} and its backports offer no ${PACKAGE} ≥ ${OLDEST_MESA}${failure}`,
    );
  }
  return resolve(best, installed, (names) => show(apt, names));
}

function readSources() {
  const files = ['/etc/apt/sources.list'];
  const parts = '/etc/apt/sources.list.d';
  if (existsSync(parts)) files.push(...readdirSync(parts).map((name) => join(parts, name)));
  return files
    .filter((file) => existsSync(file) && /\.(list|sources)$/.test(file))
    .flatMap((file) =>
      parseSources(readFileSync(file, 'utf8'), file.endsWith('.list') ? 'list' : 'sources'),
    );
}

/** All downloadable versions of the packages; names that apt does not know are left out. */
async function show(apt, names) {
  const { stdout: text } = await apt('apt-cache', ['show', ...names]).catch(() => ({ stdout: '' }));
  return parseParagraphs(text).filter((p) => p.filename && names.includes(p.package));
}

function installedVersions() {
  const format = '${db:Status-Status} ${Package} ${Version}\\n';
  const text = execFileSync('dpkg-query', ['-W', '-f', format], { encoding: 'utf8' });
  const rows = text.split('\n').map((line) => line.split(' '));
  return new Map(rows.filter(([status]) => status === 'installed').map(([, ...row]) => row));
}

/**
 * Follows Depends from `first` and returns it with every dependency that `installed` does not satisfy.
 * A release's own version is preferred to a backport that is newer than needed.
 * @param {Map<string, string>} installed
 * @param {(names: string[]) => Promise<Record<string, string>[]>} lookUp
 */
export async function resolve(first, installed, lookUp) {
  const offers = new Map([[first.package, [first]]]);
  const relations = new Map([[first.package, new Set()]]);
  const chosen = new Map();

  const has = (name) => {
    const version = installed.get(name);
    return version !== undefined && [...relations.get(name)].every((r) => satisfies(version, r));
  };
  const choose = (name) => {
    const wanted = [...relations.get(name)];
    const isBackport = (p) => Number(p.version.includes('~bpo'));
    return (offers.get(name) ?? [])
      .filter((p) => wanted.every((r) => satisfies(p.version, r)))
      .sort((a, b) => isBackport(a) - isBackport(b) || compareVersions(b.version, a.version))[0];
  };

  for (let changed = true; changed;) {
    changed = false;
    const unknown = [...relations.keys()].filter((name) => !offers.has(name) && !has(name));
    if (unknown.length > 0) {
      const found = await lookUp(unknown);
      for (const name of unknown)
        offers.set(
          name,
          found.filter((p) => p.package === name),
        );
    }
    for (const name of [...relations.keys()]) {
      if (name !== first.package && has(name)) continue;
      if (name === 'libc6') throw new SetupError(`${first.package} needs a newer libc6`);
      const pick = choose(name);
      // What nobody offers is a virtual package; the check of the finished driver shows whether it is missed.
      if (!pick || chosen.get(name) === pick) continue;
      chosen.set(name, pick);
      changed = true;
      for (const choice of [pick['pre-depends'], pick.depends].flatMap((d) =>
        parseDepends(d ?? ''),
      )) {
        const fits = ({ name: n, relation }) =>
          installed.has(n) && satisfies(installed.get(n), relation);
        const { name: dependency, relation } = choice.find(fits) ?? choice[0];
        if (!relations.has(dependency)) relations.set(dependency, new Set());
        if (relation) relations.get(dependency).add(relation);
      }
    }
  }
  return [...chosen.values()];
}
