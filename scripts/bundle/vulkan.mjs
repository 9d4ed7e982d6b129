// A Vulkan driver for a machine that may hide it: NVIDIA's libraries are often installed without the one file that tells
// the loader of them. Each way in is tried with `doctor`, and the first that shows a GPU is taken.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { run } from '../lib/process.mjs';

const MANIFEST_FOLDERS = [
  ...['/usr/share', '/etc', '/usr/local/share', '/usr/local/etc'],
  ...['/usr/local/nvidia/share', '/usr/local/nvidia', '/run/opengl-driver/share', '/opt/nvidia'],
].map((folder) => join(folder, 'vulkan', 'icd.d'));
/** Where the loader looks by itself. */
const LISTED = ['/usr/share', '/etc', '/usr/local/share', '/usr/local/etc'];
const LIBRARY_FOLDERS = [
  ...['/usr/lib/x86_64-linux-gnu', '/usr/lib64', '/usr/lib', '/usr/local/nvidia/lib64'],
  ...['/usr/local/nvidia/lib', '/usr/local/lib', '/usr/lib/x86_64-linux-gnu/nvidia/current'],
  ...['/usr/lib/wsl/lib', '/run/opengl-driver/lib'],
];
/** Both of them are Vulkan drivers; the first wants X's libraries beside it, the second does not. */
const NVIDIA_LIBRARIES = ['libGLX_nvidia.so.0', 'libEGL_nvidia.so.0'];

/**
 * The ways to a driver, best first: the environment that each needs, and folders to search for libraries.
 * @param {{ manifests: string[], libraries: string[], helpers: string | null, write: (library: string) => string }} found
 *   `manifests`: JSON files that name an NVIDIA library; `libraries`: paths of such libraries; `helpers`: a folder of the
 *   libraries of X and EGL that NVIDIA's need; `write` makes a manifest that points at a library and returns its path
 * @returns {{ name: string, env: Record<string, string>, folders: string[] }[]}
 */
export function waysToDriver({ manifests, libraries, helpers, write }) {
  const through = (manifest) => ({ VK_DRIVER_FILES: manifest, VK_ICD_FILENAMES: manifest });
  const isListed = (path) => LISTED.some((folder) => path.startsWith(`${folder}/`));
  const plain = [
    { name: 'as the system has it', env: {}, folders: [] },
    ...manifests
      .filter((path) => !isListed(path))
      .map((path) => ({ name: path, env: through(path), folders: [] })),
    ...libraries.map((path) => ({
      name: `a manifest made for ${path}`,
      env: through(write(path)),
      folders: [dirname(path)],
    })),
  ];
  if (helpers === null || manifests.length + libraries.length === 0) return plain;
  const helped = plain.map(({ name, env, folders }) => ({
    name: `${name}, helped by the bundle's libraries of X and EGL`,
    env,
    folders: [...folders, helpers],
  }));
  return [...plain, ...helped];
}

/** What of NVIDIA's is installed: manifests and libraries. */
async function lookAround() {
  const manifests = MANIFEST_FOLDERS.flatMap((folder) =>
    existsSync(folder)
      ? readdirSync(folder)
          .filter((name) => name.endsWith('.json'))
          .map((name) => join(folder, name))
      : [],
  ).filter((path) => /nvidia/i.test(readFileSync(path, 'utf8')));
  const { stdout } = await run('ldconfig', ['-p'], { env: { PATH: '/usr/sbin:/sbin:/usr/bin' } });
  const libraries = NVIDIA_LIBRARIES.flatMap((name) => {
    const listed = new RegExp(`^\\s*${name} .*x86-64.* => (.*)$`, 'm').exec(stdout)?.[1];
    const found = LIBRARY_FOLDERS.map((folder) => join(folder, name)).find((p) => existsSync(p));
    return listed !== undefined && existsSync(listed) ? [listed] : found ? [found] : [];
  });
  return { manifests, libraries };
}

function writeManifest(folder, library) {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${library.replaceAll('/', '_')}.json`);
  const driver = { library_path: library, api_version: '1.3.0' };
  writeFileSync(path, JSON.stringify({ file_format_version: '1.0.0', ICD: driver }, null, 2));
  return path;
}

/**
 * Finds the way to a driver. With no GPU in sight it is the bundled software driver if there is one, which is then put where
 * the engine looks for cached drivers, else whatever the system shows.
 * @param {{ doctor: string[], seconds: number, work: string, cache: string, say: (line: string) => void }} options
 *   `doctor`: the command that prints the adapters as JSON, given `seconds` each time; `work`: where the bundle was unpacked
 * @returns {Promise<{ way: string, env: Record<string, string>, software: string | null, chosen: object | null,
 *   tried: { way: string, shows: string }[] }>} `software`: the driver's kind where it is no GPU's
 */
export async function findDriver({ doctor, seconds, work, cache, say }) {
  const write = (library) => writeManifest(join(work, 'manifests'), library);
  const tried = [];
  const attempt = async ({ name, env, folders }) => {
    const path = [process.env.LD_LIBRARY_PATH, ...folders].filter(Boolean).join(':');
    const full = path === '' ? env : { ...env, LD_LIBRARY_PATH: path };
    const chosen = await ask(doctor, full, seconds);
    const shows = chosen.adapter === null ? chosen.problem : chosen.adapter.name;
    tried.push({ way: name, shows });
    say(`${name}: ${shows}`);
    const kind = chosen.adapter?.kind === 'software' ? 'auto' : null;
    return { way: name, env: full, software: kind, chosen: chosen.adapter, tried };
  };

  let fallback;
  const helpers = join(work, 'helpers');
  const installed = { ...(await lookAround()), helpers: existsSync(helpers) ? helpers : null };
  for (const way of waysToDriver({ ...installed, write })) {
    const found = await attempt(way);
    if (found.chosen !== null && found.software === null) return found;
    if (found.chosen !== null) fallback ??= found;
  }
  const bundled = installBundled(join(work, 'software'), cache);
  if (bundled !== null) {
    const found = await attempt({ name: `the bundle's ${bundled}`, env: {}, folders: [] });
    if (found.chosen !== null) return { ...found, software: bundled };
  }
  return fallback ?? { way: 'none', env: {}, software: 'auto', chosen: null, tried };
}

async function ask(doctor, env, seconds) {
  const [program, ...args] = doctor;
  const options = { env: { ...process.env, ...env }, timeoutMs: 1000 * seconds };
  const { code, stdout, stderr } = await run(program, args, options);
  if (code === 124) return { adapter: null, problem: `doctor did not end within ${seconds} s` };
  try {
    const { chosen, remedies } = JSON.parse(stdout);
    if (code === 0 && chosen !== null) return { adapter: chosen, problem: '' };
    return { adapter: null, problem: remedies.at(-1) ?? `doctor ended with ${code}` };
  } catch {
    const last = stderr.trim().split('\n').at(-1);
    return { adapter: null, problem: last || `doctor ended with ${code}` };
  }
}

/** Puts the bundle's software driver where src/gpu/platform.ts reads the manifests of cached drivers. */
function installBundled(folder, cache) {
  const described = join(folder, 'driver.json');
  if (!existsSync(described)) return null;
  const { name, version, library, preload } = JSON.parse(readFileSync(described, 'utf8'));
  const icd = writeManifest(folder, join(folder, library));
  const drivers = join(cache, 'wgsagan', 'drivers');
  mkdirSync(drivers, { recursive: true });
  const manifest = { name, version, icd, preload: preload.map((one) => join(folder, one)) };
  writeFileSync(join(drivers, `${name}.json`), JSON.stringify(manifest, null, 2));
  return name;
}

const MACHINE = `
uname -a; cat /etc/os-release | head -3; cat /proc/cpuinfo | grep -m1 'model name'; nproc
nvidia-smi; nvidia-smi -q -d CLOCK,MEMORY | head -60
cat /proc/driver/nvidia/version; ls -l /dev/nvidia* /dev/dri
for folder in ${MANIFEST_FOLDERS.join(' ')}; do ls -l $folder/*; done 2>/dev/null
ldconfig -p | grep -E 'nvidia|vulkan|libX11|libXext|GLdispatch'
for folder in ${LIBRARY_FOLDERS.join(' ')}; do
  for name in ${NVIDIA_LIBRARIES.join(' ')}; do [ -e $folder/$name ] && ldd $folder/$name; done
done
python3 -c 'import torch; print("torch", torch.__version__, torch.cuda.is_available())'
true`;

/** Everything about the machine that explains why a driver is not found. */
export async function describeMachine() {
  const { stdout, stderr } = await run('bash', ['-xc', MACHINE], { timeoutMs: 20_000 });
  return `${stdout}\n---- what was run, and what was not there\n${stderr}`;
}
