/**
 * Everything the engine asks of its host: the WebGPU implementation (Dawn for Node), the Vulkan driver beneath it, the
 * kernel texts, memory and cores. This is the one file of the engine that uses Node modules; a browser build has another.
 */
import { mkdirSync, readdirSync, readFileSync, existsSync } from 'node:fs';
import os from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { create, globals } from 'webgpu';

export type DriverChoice = 'auto' | 'system' | 'lavapipe' | 'swiftshader';
/** Bits of a lavapipe vector, or the driver's own choice. */
export type VectorWidth = 128 | 256 | 512 | 'default';

export interface PlatformOptions {
  /** `auto` (default): a GPU of the system, else a software driver that set-up cached, else what the system has. */
  readonly driver?: DriverChoice;
  /** Default 256, which suits our kernels best. The first instance of a process decides. */
  readonly vectorWidth?: VectorWidth;
  /** Dawn toggles to enable besides the engine's own. */
  readonly toggles?: readonly string[];
  /** Dawn toggles to disable besides the engine's own. */
  readonly disableToggles?: readonly string[];
  /** `null` validates shaders and calls without any driver, and computes nothing. */
  readonly backend?: 'null';
  /** Only adapters whose name contains this text. */
  readonly adapterName?: string;
}

export interface Toggles {
  readonly enabled: readonly string[];
  readonly disabled: readonly string[];
}

/** The driver an instance runs on: the system's own, one that set-up brought, or Dawn's null backend. */
export interface DriverInUse {
  readonly kind: 'system' | 'lavapipe' | 'swiftshader' | 'null';
  /** Version of a cached driver's package; null for the system's, whose version `adapter.info.description` names. */
  readonly version: string | null;
  readonly vectorWidth: VectorWidth;
}

export interface Platform {
  readonly gpu: GPU;
  /** Distinct adapters, high performance first, software last. Empty if there is none; then `remedy` says what to do. */
  readonly adapters: readonly GPUAdapter[];
  readonly driver: DriverInUse;
  readonly toggles: Toggles;
  readonly remedy: string | null;
}

/** `<cache>/drivers/<name>.json`, written by scripts/setup.mjs; every path is absolute. */
export interface DriverManifest {
  readonly name: 'lavapipe' | 'swiftshader';
  readonly version: string;
  readonly icd: string;
  /** Libraries that the system lacks, dependencies first. */
  readonly preload: readonly string[];
}

const ENABLED = ['allow_unsafe_apis', 'vulkan_enable_f16_on_nvidia'];
const DISABLED = ['timestamp_quantization'];

/**
 * A device does not keep its instance alive, and an instance that is collected takes the process down
 * (node-webgpu#18), so every instance is rooted until the process ends. The set hangs on globalThis because a test
 * runner may drop and reload this module while devices live on.
 */
const instances: Set<GPU> = ((globalThis as { wgsaganInstances?: Set<GPU> }).wgsaganInstances ??=
  new Set<GPU>());

/**
 * Opens Dawn on the driver that the options choose and lists its adapters; creates no device.
 * A driver that is asked for by name and is not there gives no adapters and a remedy, not an error.
 */
export async function createInstance(options: PlatformOptions = {}): Promise<Platform> {
  const toggles: Toggles = {
    enabled: [...new Set([...ENABLED, ...(options.toggles ?? [])])],
    disabled: [...new Set([...DISABLED, ...(options.disableToggles ?? [])])],
  };
  const vectorWidth = options.vectorWidth ?? 256;
  const open = (driver: DriverInUse) => openDawn(driver, toggles, options);

  if (options.backend === 'null') return open({ kind: 'null', version: null, vectorWidth });
  prepareLavapipe(vectorWidth);

  const choice = options.driver ?? 'auto';
  const system: DriverInUse = { kind: 'system', version: null, vectorWidth };
  if (choice === 'system') {
    useSystemDrivers();
    return open(system);
  }
  if (choice === 'lavapipe' || choice === 'swiftshader') {
    const manifest = readManifest(choice);
    if (manifest) {
      useCachedDriver(manifest);
      return open({ kind: choice, version: manifest.version, vectorWidth });
    }
    const folder = join(cacheDir(), 'drivers');
    const remedy = `the ${choice} driver is not in ${folder}: run \`${setupCommand(choice)}\``;
    return { ...(await open({ kind: 'null', version: null, vectorWidth })), adapters: [], remedy };
  }

  const cached = readManifest('lavapipe') ?? readManifest('swiftshader');
  // Without this look first, Dawn prints a warning about the missing loader on every start of a machine with no GPU.
  if (!cached || systemHasDrivers()) {
    useSystemDrivers();
    const found = await open(system);
    if (!cached || found.adapters.some((adapter) => !adapter.info.isFallbackAdapter)) return found;
  }
  useCachedDriver(cached);
  return open({ kind: cached.name, version: cached.version, vectorWidth });
}

async function openDawn(
  driver: DriverInUse,
  toggles: Toggles,
  options: PlatformOptions,
): Promise<Platform> {
  installGlobals();
  const flags = [
    `enable-dawn-features=${toggles.enabled.join(',')}`,
    `disable-dawn-features=${toggles.disabled.join(',')}`,
  ];
  if (driver.kind === 'null') flags.push('backend=null');
  if (options.adapterName !== undefined) flags.push(`adapter=${options.adapterName}`);
  const gpu = create(flags);
  instances.add(gpu);
  const adapters = await listAdapters(gpu);
  const remedy = `no GPU adapter was found: run \`${setupCommand()}\`, which brings a software Vulkan driver`;
  return { gpu, adapters, driver, toggles, remedy: adapters.length > 0 ? null : remedy };
}

/** WebGPU has no list of adapters; these three questions reach a discrete, an integrated and a software one. */
async function listAdapters(gpu: GPU): Promise<GPUAdapter[]> {
  const questions: GPURequestAdapterOptions[] = [
    { powerPreference: 'high-performance' },
    { powerPreference: 'low-power' },
    { forceFallbackAdapter: true },
  ];
  const found = new Map<string, GPUAdapter>();
  for (const question of questions) {
    // Dawn rejects, instead of answering null, when an adapter name matches nothing.
    const adapter = await gpu.requestAdapter(question).catch(() => null);
    if (!adapter) continue;
    const { vendor, architecture, device, description } = adapter.info;
    const name = [vendor, architecture, device, description].join('|');
    if (!found.has(name)) found.set(name, adapter);
  }
  const all = [...found.values()];
  const software = (adapter: GPUAdapter) => Number(adapter.info.isFallbackAdapter);
  return all.sort((a, b) => software(a) - software(b));
}

/** Puts GPUBufferUsage, GPUMapMode and the rest where the WebGPU standard has them. */
function installGlobals(): void {
  if (!('GPUBufferUsage' in globalThis)) Object.assign(globalThis, globals);
}

// ---- Vulkan drivers -------------------------------------------------------------------------------------------------

const systemEnvironment = {
  VK_DRIVER_FILES: process.env['VK_DRIVER_FILES'],
  VK_ICD_FILENAMES: process.env['VK_ICD_FILENAMES'],
};

/** The manifest of a cached driver, or null if there is none or a file that it names is gone. */
export function readManifest(name: 'lavapipe' | 'swiftshader'): DriverManifest | null {
  try {
    const text = readFileSync(join(cacheDir(), 'drivers', `${name}.json`), 'utf8');
    const manifest = JSON.parse(text) as DriverManifest;
    return [manifest.icd, ...manifest.preload].every((path) => existsSync(path)) ? manifest : null;
  } catch {
    return null;
  }
}

const systemShaderCache = process.env['MESA_SHADER_CACHE_DISABLE'];

/**
 * lavapipe reads its vector width when its first instance opens. Mesa's disk cache does not key on the width
 * (a binary made at 256 bits would be reused at 128), hence a cache folder for each, and none at all where it cannot be
 * made: a start then takes longer, and Mesa's own folder would mix the widths.
 */
function prepareLavapipe(width: VectorWidth): void {
  if (process.platform !== 'linux') return;
  setOrDelete('LP_NATIVE_VECTOR_WIDTH', width === 'default' ? undefined : String(width));
  const folder = join(cacheDir(), 'shaders', `lavapipe-${String(width)}`);
  try {
    mkdirSync(folder, { recursive: true });
    process.env['MESA_SHADER_CACHE_DIR'] = folder;
    setOrDelete('MESA_SHADER_CACHE_DISABLE', systemShaderCache);
  } catch {
    process.env['MESA_SHADER_CACHE_DISABLE'] = 'true';
  }
}

/** Is any Vulkan driver registered with the system, by file or by environment? Other platforms have no such files. */
function systemHasDrivers(): boolean {
  if (process.platform !== 'linux') return true;
  if (systemEnvironment.VK_DRIVER_FILES ?? systemEnvironment.VK_ICD_FILENAMES) return true;
  const { XDG_CONFIG_DIRS, XDG_DATA_DIRS, XDG_DATA_HOME } = process.env;
  const roots = [
    '/etc',
    '/usr/local/etc',
    ...(XDG_CONFIG_DIRS ?? '/etc/xdg').split(delimiter),
    ...(XDG_DATA_DIRS ?? '/usr/local/share:/usr/share').split(delimiter),
    XDG_DATA_HOME ?? join(os.homedir(), '.local', 'share'),
  ];
  return roots.some((root) => {
    try {
      return readdirSync(join(root, 'vulkan', 'icd.d')).some((file) => file.endsWith('.json'));
    } catch {
      return false;
    }
  });
}

function useSystemDrivers(): void {
  setOrDelete('VK_DRIVER_FILES', systemEnvironment.VK_DRIVER_FILES);
  setOrDelete('VK_ICD_FILENAMES', systemEnvironment.VK_ICD_FILENAMES);
  // A container may be given a GPU's driver without the Vulkan loader; a cached one serves it as well.
  if (process.platform !== 'linux' || !systemHasDrivers() || preload('libvulkan.so.1')) return;
  const cached = readManifest('lavapipe') ?? readManifest('swiftshader');
  const loader = cached?.preload.find((path) => path.includes('/libvulkan.so'));
  if (loader !== undefined) preload(loader);
}

function useCachedDriver(manifest: DriverManifest): void {
  for (const library of manifest.preload) preload(library);
  process.env['VK_DRIVER_FILES'] = manifest.icd;
  process.env['VK_ICD_FILENAMES'] = manifest.icd;
}

function setOrDelete(name: string, value: string | undefined): void {
  if (value === undefined) Reflect.deleteProperty(process.env, name);
  else process.env[name] = value;
}

const RTLD_NODELETE = 0x1000;

/**
 * Loads a shared library for good, so that glibc satisfies later requests for its SONAME with it: the driver's
 * needed libraries, and Dawn's own dlopen("libvulkan.so.1"). This spares LD_LIBRARY_PATH, which can only be set
 * before a process starts. Node refuses a library that is no add-on and closes it; NODELETE keeps it loaded.
 */
function preload(library: string): boolean {
  const { RTLD_NOW, RTLD_GLOBAL } = os.constants.dlopen;
  try {
    process.dlopen({ exports: {} }, library, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
    return true;
  } catch (error) {
    return error instanceof Error && error.message.includes('did not self-register');
  }
}

// ---- polling --------------------------------------------------------------------------------------------------------

const IMMEDIATE_POLLS = 32;
const IDLE_MS = 50;

const throttle = { installed: false, polls: 0, deferred: 0, lastPoll: 0 };

/**
 * While a GPU promise is pending, Dawn for Node re-queues a native callback through `globalThis.setImmediate` for ever,
 * which takes a whole core from a software driver. From this call on the first polls of a wait stay immediate and later
 * ones sleep a millisecond; only Dawn's nameless native callbacks are touched. For software adapters; a second call
 * changes nothing.
 */
export function installPollThrottle(): void {
  if (throttle.installed) return;
  throttle.installed = true;
  const original = globalThis.setImmediate;
  const isDawns = (callback: unknown): boolean =>
    typeof callback === 'function' &&
    callback.name === '' &&
    Function.prototype.toString.call(callback).includes('[native code]');

  const throttled = (callback: (...args: unknown[]) => void, ...args: unknown[]): unknown => {
    if (!isDawns(callback)) return original(callback, ...args);
    const now = performance.now();
    if (now - throttle.lastPoll > IDLE_MS) throttle.polls = 0;
    throttle.lastPoll = now;
    throttle.polls += 1;
    if (throttle.polls <= IMMEDIATE_POLLS) return original(callback, ...args);
    throttle.deferred += 1;
    return setTimeout(callback, 1, ...args);
  };
  // The copied properties keep util.promisify(setImmediate) working.
  const properties = Object.getOwnPropertyDescriptors(original);
  globalThis.setImmediate = Object.defineProperties(
    throttled,
    properties,
  ) as unknown as typeof setImmediate;
}

/** Call just before awaiting the GPU: the next polls are immediate again, so that a short wait stays short. */
export function resetPollThrottle(): void {
  throttle.polls = 0;
}

/** Polls put off so far. Still 0 after a long wait means that this Dawn no longer polls through setImmediate. */
export function deferredPolls(): number {
  return throttle.deferred;
}

// ---- files, memory, cores -------------------------------------------------------------------------------------------

/** The text of a file below `kernels/`, e.g. `readText('matmul/1_naive.wgsl')`. Synchronous; throws if it is absent. */
export function readText(pathInKernels: string): string {
  return readFileSync(join(packageRoot(), 'kernels', pathInKernels), 'utf8');
}

let knownRoot: string | undefined;

/** The folder of package.json above this file: the same from src/gpu and from dist/src/gpu. */
export function packageRoot(folder = dirname(fileURLToPath(import.meta.url))): string {
  if (knownRoot !== undefined) return knownRoot;
  if (existsSync(join(folder, 'package.json'))) return (knownRoot = folder);
  const parent = dirname(folder);
  if (parent === folder) throw new Error('wgsagan: no package.json above its own source files');
  return packageRoot(parent);
}

let knownVersion: string | undefined;

/** The version in package.json. */
export function engineVersion(): string {
  const read = () => readFileSync(join(packageRoot(), 'package.json'), 'utf8');
  return (knownVersion ??= (JSON.parse(read()) as { version: string }).version);
}

/** The command that brings a driver: npm's script in a clone, the file itself in an installed package. */
function setupCommand(driver?: string): string {
  const flag = driver === undefined ? '' : `--driver ${driver}`;
  if (existsSync(join(packageRoot(), 'src', 'cli')))
    return `npm run setup ${flag && `-- ${flag}`}`.trim();
  return `node ${join(packageRoot(), 'scripts', 'setup.mjs')} ${flag}`.trim();
}

/** The user's cache folder for drivers, shader binaries and generated data sets; not necessarily there yet. */
export function cacheDir(): string {
  const xdg = process.env['XDG_CACHE_HOME'];
  return join(xdg ? xdg : join(os.homedir(), '.cache'), 'wgsagan');
}

/** Memory that this process may use, and what is free of it now, within the limit of its container if it has one. */
export function hostMemoryBytes(): { readonly total: number; readonly available: number } {
  const physical = os.totalmem();
  const limit = process.constrainedMemory();
  if (limit <= 0 || limit >= physical) return { total: physical, available: os.freemem() };
  const free = limit - containerUsageBytes();
  return { total: limit, available: Math.max(0, Math.min(os.freemem(), free)) };
}

/** What the control group holds less its file cache, which the kernel gives back on demand; 0 where not to be read. */
function containerUsageBytes(): number {
  try {
    const used = Number(readFileSync('/sys/fs/cgroup/memory.current', 'utf8'));
    const stat = readFileSync('/sys/fs/cgroup/memory.stat', 'utf8');
    return used - Number(/^inactive_file (\d+)$/m.exec(stat)?.[1] ?? 0);
  } catch {
    return process.memoryUsage.rss();
  }
}

/** Cores that this process may run on. */
export function cpuCount(): number {
  return os.availableParallelism();
}
