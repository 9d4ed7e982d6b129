/**
 * The losses of a training step's first four steps by PyTorch in float64. golden.json holds them for the cases as they
 * stand, so that a machine without PyTorch can judge too.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { writeFileAtomic } from '../../src/io/atomic.ts';
import { readSafetensors, writeSafetensors } from '../../src/io/safetensors.ts';
import { fail } from '../../src/util/errors.ts';
import { inputsOf } from './cases.ts';
import type { PeerCase, Values } from './cases.ts';
import { PeerProcess, pathOf } from './child.ts';
import { findTorch, torchSetting } from './peers.ts';
import { hashOf, stored } from './reference.ts';
import type { Task } from './worker.ts';

interface Golden {
  /** Of the case and its inputs. */
  readonly hash: string;
  readonly lossD: readonly number[];
  readonly lossG: readonly number[];
}

const file = pathOf('golden.json');

export function readGolden(): Record<string, Golden | undefined> {
  if (!existsSync(file)) return {};
  return JSON.parse(readFileSync(file, 'utf8')) as Record<string, Golden | undefined>;
}

/** A case's name in golden.json: a training step with the images that it takes. */
function keyOf(c: PeerCase): string {
  return c.work.op === 'gan' ? `${c.name}:${c.work.spec.batch}` : c.name;
}

/** From golden.json; made now where that has none for these inputs. Throws a `UserError` where neither is possible. */
export async function goldenLosses(c: PeerCase, inputs: Values, python?: string): Promise<Values> {
  const golden = readGolden()[keyOf(c)];
  if (golden?.hash !== hashOf(c, inputs)) return makeLosses(c, inputs, python);
  return new Map([
    ['lossD', Float32Array.from(golden.lossD)],
    ['lossG', Float32Array.from(golden.lossG)],
  ]);
}

const hourSeconds = 3600;

async function makeLosses(c: PeerCase, inputs: Values, python?: string): Promise<Values> {
  const torch = findTorch(python);
  if ('reason' in torch) {
    return fail(`${c.title}: golden.json has no losses for it, and ${torch.reason} to make them`);
  }
  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-golden-'));
  const task: Task = {
    file: join(folder, 'case'),
    out: join(folder, 'out'),
    setting: torchSetting('f64'),
    driver: 'system',
    adapter: null,
  };
  await writeSafetensors(task.file, stored(inputs, c.inputs), { case: JSON.stringify(c) });
  const child = new PeerProcess(torch.command, task);
  try {
    await child.ready(hourSeconds);
    const { tensors } = await readSafetensors(task.out, { role: 'output' });
    return new Map([...tensors].map(([name, t]) => [name, t.data as Float32Array]));
  } finally {
    child.kill();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Makes golden.json's entries for the training steps among the cases. */
export async function writeGolden(cases: readonly PeerCase[], python?: string): Promise<void> {
  const golden = readGolden();
  for (const c of cases) {
    if (c.work.op !== 'gan') continue;
    const inputs = inputsOf(c);
    const found = await makeLosses(c, inputs, python);
    const list = (name: string) => [...(found.get(name) ?? [])];
    golden[keyOf(c)] = { hash: hashOf(c, inputs), lossD: list('lossD'), lossG: list('lossG') };
    await writeFileAtomic(file, `${JSON.stringify(golden, null, 2)}\n`);
  }
}
