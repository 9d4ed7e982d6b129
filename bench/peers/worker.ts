/**
 * The child's side: one process for one case of one peer in one setting. It reads the case from a safetensors file, computes
 * it once, writes what it found, and then takes samples when it is told to. torch.py speaks the same protocol:
 *   argv[2]  JSON of `Task`
 *   fd 3     one JSON `Reply` a line: the first says that the case is ready, each later one answers a line of stdin
 *   stdin    one JSON `Request` a line; its end ends the process
 */
import { writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { installPollThrottle, createInstance } from '../../src/gpu/platform.ts';
import type { DriverInUse, VectorWidth } from '../../src/gpu/platform.ts';
import { readSafetensors, writeSafetensors } from '../../src/io/safetensors.ts';
import { messageOf } from '../../src/util/errors.ts';
import type { PeerCase, Values } from './cases.ts';
import { stored } from './reference.ts';

/** How a peer runs. On a GPU there is one way; a software driver has its vector width and Dawn's polling to set. */
export interface Setting {
  readonly name: string;
  /** Our throttled polling in place of Dawn's, which takes a core from a software driver. */
  readonly throttle: boolean;
  readonly width: VectorWidth;
  /** Of wgsagan alone: what its tensors are. Default f32. */
  readonly precision?: 'f16';
}

export interface Task {
  /** Safetensors file of the inputs; its metadata's `case` is the PeerCase. */
  readonly file: string;
  /** Where the outputs go. */
  readonly out: string;
  readonly setting: Setting;
  readonly driver: DriverInUse['kind'];
  /** The adapter's name, where the driver is the system's and may show several. */
  readonly adapter: string | null;
}

export interface Request {
  /** Samples to take, each of `times` runs in a row with one wait at the end. */
  readonly samples: number;
  readonly times: number;
}

export type Reply =
  /** `onceMs` is a run after warm-up. */
  | { readonly ready: true; readonly version: string; readonly onceMs: number }
  /** Milliseconds a run; the CPU time that the samples took; the most memory that the process has held. */
  | { readonly ms: readonly number[]; readonly cpuMs: number; readonly peakMiB: number }
  | { readonly error: string };

/** A case made ready by a peer. */
export interface Prepared {
  /** Does the work so many times, and resolves when the last is done. */
  run(times: number): Promise<void>;
  /** What the case asks for, by name, in NCHW. Called once, before any `run`. */
  outputs(): Promise<Values>;
}

export interface Adapter {
  readonly version: string;
  prepare(c: PeerCase, inputs: Values, task: Task): Promise<Prepared>;
}

/** Opens Dawn for a library that looks for `navigator.gpu`, on the task's driver, with or without our throttle. */
export async function openNavigatorGpu(task: Task): Promise<GPU> {
  const gpu = await openDriver(task);
  Object.defineProperty(globalThis, 'navigator', {
    value: { gpu, userAgent: 'node', platform: process.platform },
    configurable: true,
  });
  return gpu;
}

export async function openDriver({ driver, adapter, setting }: Task): Promise<GPU> {
  if (driver === 'null') throw new Error('the null driver computes nothing');
  const named = adapter === null ? {} : { adapterName: adapter };
  const { gpu } = await createInstance({ driver, vectorWidth: setting.width, ...named });
  if (setting.throttle) installPollThrottle();
  return gpu;
}

/** Runs and waits for a first time, so that nothing is compiled while samples are taken. */
const warmUps = 2;

/** Serves this process's one task. `open` brings the peer up. */
export async function serve(open: (task: Task) => Promise<Adapter>): Promise<void> {
  try {
    const task = JSON.parse(process.argv[2] ?? '') as Task;
    const { tensors, metadata } = await readSafetensors(task.file, { role: 'case' });
    const inputs = new Map([...tensors].map(([name, t]) => [name, t.data as Float32Array]));
    const adapter = await open(task);
    const prepared = await adapter.prepare(
      JSON.parse(metadata['case'] ?? '') as PeerCase,
      inputs,
      task,
    );
    await writeSafetensors(task.out, stored(await prepared.outputs()));
    let onceMs = 0;
    for (let i = 0; i <= warmUps; i++) onceMs = await time(prepared, 1);
    reply({ ready: true, version: adapter.version, onceMs });
    for await (const line of createInterface({ input: process.stdin })) {
      const { samples, times } = JSON.parse(line) as Request;
      const ms: number[] = [];
      const start = process.cpuUsage();
      for (let i = 0; i < samples; i++) ms.push((await time(prepared, times)) / times);
      const { user, system } = process.cpuUsage(start);
      const cpuMs = (user + system) / 1000;
      reply({ ms, cpuMs, peakMiB: process.resourceUsage().maxRSS / 1024 });
    }
    // Nothing is to be torn down that could keep the process.
    process.exit(0);
  } catch (error) {
    reply({ error: messageOf(error) });
    process.exit(1);
  }
}

async function time(prepared: Prepared, times: number): Promise<number> {
  const start = performance.now();
  await prepared.run(times);
  return performance.now() - start;
}

function reply(message: Reply): void {
  writeSync(3, `${JSON.stringify(message)}\n`);
}

/** The values under a name; a case always brings what its work needs. */
export function input(inputs: Values, name: string): Float32Array {
  const found = inputs.get(name);
  if (found === undefined) throw new Error(`the case has no ${name}`);
  return found;
}
