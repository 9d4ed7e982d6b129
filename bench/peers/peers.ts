/** Who takes part, how each is started, in which settings, and why it cannot. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { AdapterSummary } from '../../src/gpu/adapter.ts';
import type { VectorWidth } from '../../src/gpu/platform.ts';
import { fail } from '../../src/util/errors.ts';
import { nodeCommand, pathOf } from './child.ts';
import type { Command } from './child.ts';
import { failUnknown, keysOf } from './cases.ts';
import type { PeerCase } from './cases.ts';
import type { Precision } from './reference.ts';
import type { Setting } from './worker.ts';

export type PeerKind = 'ours' | 'webgpu' | 'torch';

export interface Peer {
  readonly id: string;
  readonly title: string;
  readonly kind: PeerKind;
  readonly precision: Precision;
  readonly command: Command;
  readonly settings: readonly Setting[];
  /** Why it does not take part in a case, or null. */
  readonly declines: (c: PeerCase) => string | null;
}

export interface Absence {
  readonly title: string;
  readonly reason: string;
}

/** What comes with a library and nothing else: no throttle, the driver's own vector width. */
export const asItComes = 'as it comes';

const libraries = [
  { id: 'tfjs', title: 'tfjs-webgpu', file: 'tfjs.ts', package: '@tensorflow/tfjs-backend-webgpu' },
  { id: 'jax', title: 'jax-js', file: 'jax.ts', package: '@jax-js/jax' },
  { id: 'onnx', title: 'ORT-node', file: 'onnx.ts', package: 'onnxruntime-node' },
] as const;

const torchTitles = {
  cpu: 'PyTorch CPU',
  cuda: 'PyTorch CUDA',
  'cuda-tf32': 'PyTorch TF32',
  'cuda-f16': 'PyTorch autocast',
} as const;

const everyId = ['ours', 'ours-f16', ...libraries.map((l) => l.id), 'torch'];

/** The settings that a WebGPU peer is tried in: more than one only where the driver is lavapipe. */
export function settingsFor(adapter: AdapterSummary, widths: readonly VectorWidth[]): Setting[] {
  const plain: Setting = { name: asItComes, throttle: false, width: 'default' };
  if (adapter.kind !== 'software') return [plain];
  const lavapipe = /lavapipe|llvmpipe/i.test(`${adapter.driver.kind} ${adapter.name}`);
  const tried: readonly VectorWidth[] = lavapipe ? widths : ['default'];
  return [plain, ...tried.map((width) => ({ name: `throttled, ${width}`, throttle: true, width }))];
}

/** wgsagan throttles and sets a width of 256 by itself: that is how it comes. */
function ownSettings(settings: readonly Setting[]): Setting[] {
  const engine: Setting = { name: asItComes, throttle: true, width: 256 };
  return [
    engine,
    ...settings.filter((s) => s.throttle && s.width !== engine.width && s.width !== 'default'),
  ];
}

export interface Field {
  readonly peers: readonly Peer[];
  readonly absent: readonly Absence[];
  readonly versions: Readonly<Record<string, string>>;
}

/** The peers of these ids (all, where nobody chooses) that this machine can run, and why the others cannot. */
export function gatherPeers(
  ids: readonly string[] | undefined,
  { adapter, settings }: { adapter: AdapterSummary; settings: readonly Setting[] },
  python: string | undefined,
): Field {
  for (const id of ids ?? []) {
    if (!everyId.includes(id)) failUnknown('--peers', id, everyId);
  }
  const wanted = (id: string) => ids?.includes(id) ?? true;
  requirePackage();
  const peers: Peer[] = [];
  const absent: Absence[] = [];
  const versions: Record<string, string> = {};
  if (wanted('ours')) {
    const [command, own] = [nodeCommand('ours.ts'), ownSettings(settings)];
    peers.push({ ...webgpu, id: 'ours', title: 'wgsagan', kind: 'ours', command, settings: own });
  }
  // A CPU driver computes in f32 whatever the tensors are: there it takes part only where it is asked to.
  const half = ids?.includes('ours-f16') ?? adapter.kind !== 'software';
  if (half && adapter.features.includes('shader-f16')) {
    const own = ownSettings(settings).map((s): Setting => ({ ...s, precision: 'f16' }));
    const same = { kind: 'ours', command: nodeCommand('ours.ts'), settings: own } as const;
    peers.push({ ...webgpu, ...same, id: 'ours-f16', title: 'wgsagan f16', precision: 'f16' });
  } else if (half) {
    absent.push({ title: 'wgsagan f16', reason: `${adapter.name} has no shader-f16` });
  }
  for (const { id, title, file, package: name } of libraries) {
    if (!wanted(id)) continue;
    const manifest = pathOf(`node_modules/${name}/package.json`);
    if (existsSync(manifest)) {
      versions[title] = (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version;
      const declines = id === 'onnx' ? forwardOnly : webgpu.declines;
      peers.push({
        ...webgpu,
        id,
        title,
        kind: 'webgpu',
        command: nodeCommand(file),
        settings,
        declines,
      });
    } else {
      absent.push({ title, reason: `${name} is not installed: run \`npm ci\` in bench/peers` });
    }
  }
  if (wanted('torch')) {
    const torch = findTorch(python);
    if ('reason' in torch) {
      absent.push({ title: 'PyTorch', reason: torch.reason });
    } else {
      versions['PyTorch'] = torch.version;
      const names = torch.cuda === null ? (['cpu'] as const) : keysOf(torchTitles);
      if (torch.cuda === null) {
        absent.push({ title: 'PyTorch CUDA', reason: 'torch.cuda.is_available() is false' });
      }
      peers.push(...names.map((name) => torchPeer(name, torch.command)));
    }
  }
  return { peers, absent, versions };
}

const webgpu = { precision: 'f32', declines: () => null } as const;

const forwardOnly = (c: PeerCase) => (c.backward ? 'it has no gradients' : null);

function torchPeer(name: keyof typeof torchTitles, command: Command): Peer {
  const precision = name === 'cuda-tf32' ? 'tf32' : name === 'cuda-f16' ? 'f16' : 'f32';
  return {
    id: `torch-${name}`,
    title: torchTitles[name],
    kind: 'torch',
    precision,
    command,
    settings: [torchSetting(name)],
    declines: () => null,
  };
}

/** pytorch.py knows its device and number format by the setting's name. */
export function torchSetting(name: string): Setting {
  return { name, throttle: false, width: 'default' };
}

/** Throws a `UserError` if `npm ci` never ran here. */
function requirePackage(): void {
  if (!existsSync(pathOf('node_modules'))) {
    fail(
      'the peers are not installed: run `npm ci` in bench/peers (they are a package of their own)',
    );
  }
}

export interface Torch {
  readonly version: string;
  readonly threads: number;
  /** The GPU's name, if PyTorch sees one. */
  readonly cuda: string | null;
  readonly command: Command;
}

/** The first python3 that can import torch: the one named, else the path's, else the system's. */
export function findTorch(python: string | undefined): Torch | { readonly reason: string } {
  const candidates = python === undefined ? ['python3', '/usr/bin/python3'] : [python];
  const script = pathOf('pytorch.py');
  const env = openblas();
  for (const program of candidates) {
    const found = spawnSync(program, [script, '--probe'], {
      encoding: 'utf8',
      env: { ...process.env, ...env },
      timeout: 120_000,
    });
    if (found.status !== 0) continue;
    const facts = JSON.parse(found.stdout) as Omit<Torch, 'command'>;
    return { ...facts, command: { program, args: [script], env } };
  }
  return { reason: `${candidates.join(' and ')} cannot import torch` };
}

/**
 * Debian's PyTorch takes the system's BLAS, and its default one is ten times slower than OpenBLAS with OpenMP. A
 * PyTorch from a wheel brings its own and does not look here.
 */
function openblas(): Record<string, string> {
  const lib = '/usr/lib';
  if (process.platform !== 'linux' || !existsSync(lib)) return {};
  const folder = readdirSync(lib)
    .map((name) => join(lib, name, 'openblas-openmp'))
    .find((path) => existsSync(path));
  if (folder === undefined) return {};
  const before = process.env['LD_LIBRARY_PATH'];
  return { LD_LIBRARY_PATH: before === undefined ? folder : `${folder}${delimiter}${before}` };
}
