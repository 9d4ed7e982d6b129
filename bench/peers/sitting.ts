/** One case: every peer computes it and is judged, then they take turns at it. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { AdapterSummary } from '../../src/gpu/adapter.ts';
import { readSafetensors, writeSafetensors } from '../../src/io/safetensors.ts';
import { UserError } from '../../src/util/errors.ts';
import { percentile } from '../../src/util/statistics.ts';
import { inputsOf } from './cases.ts';
import type { PeerCase, Values } from './cases.ts';
import { PeerFailure, PeerProcess } from './child.ts';
import { goldenLosses } from './golden.ts';
import type { Peer } from './peers.ts';
import { machineTime, othersShare } from './load.ts';
import { judge, reference, stored } from './reference.ts';
import type { Measurement } from './report.ts';
import type { Setting } from './worker.ts';

export interface Sitting {
  readonly c: PeerCase;
  readonly folder: string;
  readonly summary: AdapterSummary;
  readonly limit: number;
  readonly rounds: number;
  readonly python: string | undefined;
  readonly pace: { readonly samples: number; readonly targetMs: number };
  readonly running: Set<PeerProcess>;
  readonly say: (line: string) => void;
}

/** One entrant: a peer in a setting, its process, and what it has shown so far. */
interface Entrant {
  readonly peer: Peer;
  readonly setting: Setting;
  readonly child: PeerProcess;
  readonly error: number;
  /** Runs in a row that make one sample, and samples of a turn. */
  readonly times: number;
  readonly samples: number;
  readonly ms: number[];
  /** Share of the machine that others had, turn by turn. */
  readonly others: number[];
  peakMiB: number;
  failure: string | null;
}

/** A turn takes no longer, and one sample at least. */
const turnMs = 20_000;

/** Everybody makes the case ready and is judged, one after the other; then they take turns. */
export async function runCase(sitting: Sitting, peers: readonly Peer[]): Promise<Measurement[]> {
  const { c, folder, rounds, limit, say } = sitting;
  const inputs = inputsOf(c);
  let truth: Values;
  try {
    truth = await (c.work.op === 'gan'
      ? goldenLosses(c, inputs, sitting.python)
      : reference(c, inputs));
  } catch (error) {
    // The cases before it are not to be lost to this one.
    if (!(error instanceof PeerFailure || error instanceof UserError)) throw error;
    const reason = `nothing to judge it by: ${error.message}`;
    say(`    ${reason}`);
    return peers.map((peer) => failed(c, peer, null, 'failed', reason));
  }
  const file = join(folder, `${c.name}.safetensors`);
  await writeSafetensors(file, stored(inputs, c.inputs), { case: JSON.stringify(c) });
  const done: Measurement[] = [];
  const entrants: Entrant[] = [];
  for (const peer of peers) {
    const declined = peer.declines(c);
    if (declined !== null) done.push(failed(c, peer, null, 'cannot', declined));
    else {
      for (const setting of peer.settings) {
        const entry = await enter(sitting, peer, setting, file, truth);
        if ('child' in entry) entrants.push(entry);
        else done.push(entry);
      }
    }
  }
  for (let round = 0; round < rounds; round++) {
    for (const entrant of entrants) {
      if (entrant.failure !== null) continue;
      try {
        const before = machineTime();
        const reply = await entrant.child.sample(
          { samples: entrant.samples, times: entrant.times },
          limit,
        );
        entrant.others.push(othersShare(before, machineTime(), reply.cpuMs) ?? 0);
        entrant.ms.push(...reply.ms);
        entrant.peakMiB = reply.peakMiB;
      } catch (error) {
        if (!(error instanceof PeerFailure)) throw error;
        entrant.failure = error.message;
      }
    }
  }
  for (const { peer, setting, child, ms, ...rest } of entrants) {
    await child.close();
    sitting.running.delete(child);
    if (rest.failure !== null) done.push(failed(c, peer, setting, 'failed', rest.failure));
    else {
      const of = (p: number) => percentile(ms, p);
      done.push({
        ...label(c, peer, setting),
        state: 'timed',
        ms: of(0.5),
        p10: of(0.1),
        p90: of(0.9),
        samples: ms.length,
        error: rest.error,
        peakMiB: Math.round(rest.peakMiB),
        others: percentile(rest.others, 0.5),
      });
    }
  }
  for (const m of done) say(`    ${describe(m)}`);
  rmSync(file);
  return done;
}

async function enter(
  { c, folder, summary, limit, pace, running, say }: Sitting,
  peer: Peer,
  setting: Setting,
  file: string,
  truth: Values,
): Promise<Entrant | Measurement> {
  const out = join(folder, `${c.name}.out`);
  const { kind: driver } = summary.driver;
  const adapter = driver === 'system' && summary.kind !== 'software' ? summary.name : null;
  const child = new PeerProcess(peer.command, { file, out, setting, driver, adapter });
  running.add(child);
  const refuse = async (state: 'wrong' | 'failed', reason: string) => {
    child.kill();
    await child.close();
    running.delete(child);
    return failed(c, peer, setting, state, reason);
  };
  try {
    const { onceMs } = await child.ready(limit);
    const { tensors } = await readSafetensors(out, { role: 'output' });
    const found = new Map([...tensors].map(([name, t]) => [name, t.data as Float32Array]));
    rmSync(out);
    const { right, error, reason } = judge(c, found, truth, peer.precision);
    if (!right) return await refuse('wrong', reason);
    say(
      `  ${peer.title}, ${setting.name}: right (${error.toExponential(1)}), about ${onceMs.toFixed(1)} ms`,
    );
    const times = Math.max(1, Math.min(200, Math.round(pace.targetMs / onceMs)));
    const samples = Math.max(1, Math.min(pace.samples, Math.floor(turnMs / onceMs)));
    return {
      peer,
      setting,
      child,
      error,
      times,
      samples,
      ms: [],
      others: [],
      peakMiB: 0,
      failure: null,
    };
  } catch (error) {
    if (!(error instanceof PeerFailure)) throw error;
    return refuse('failed', error.message);
  }
}

function label(c: PeerCase, peer: Peer, setting: Setting | null) {
  return { case: c.name, peer: peer.id, setting: setting?.name ?? null };
}

function failed(
  c: PeerCase,
  peer: Peer,
  setting: Setting | null,
  state: 'cannot' | 'wrong' | 'failed',
  reason: string,
): Measurement {
  return { ...label(c, peer, setting), state, reason };
}

function describe(m: Measurement): string {
  const who = `${m.peer}${m.setting === null ? '' : `, ${m.setting}`}`;
  if (m.state !== 'timed') return `${who}: ${m.state}: ${m.reason}`;
  return `${who}: ${m.ms.toFixed(2)} ms [${m.p10.toFixed(2)}–${m.p90.toFixed(2)}]`;
}
