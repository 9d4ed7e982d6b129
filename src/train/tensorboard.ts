import { appendFileSync, existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileError } from '../io/errno.ts';
import { decodePng } from '../io/png.ts';
import { histogramOf, sessionStart, summaryEvent, versionEvent } from '../io/tfevents.ts';
import type { Histogram } from '../io/tfevents.ts';
import type { Learner } from './learner.ts';
import type { MetricLine } from './run-folder.ts';
import type { TrainEvents } from './trainer.ts';

/**
 * Writes what a run tells into an event file of its own in the run folder, for TensorBoard: every number of a line of metrics,
 * each grid of samples, and the weights of each net at that step as histograms. A run that goes on begins another file, which
 * takes back what those before have from step `from` on. Throws a `UserError` where it cannot write.
 */
export function tensorboard(
  run: string,
  { modules, average }: Pick<Learner, 'modules' | 'average'>,
  from: number,
): TrainEvents {
  const again = readdirSync(run).some((name) => name.startsWith('events.out.tfevents.'));
  const path = newFile(run);
  const now = () => Date.now() / 1000;
  const append = (bytes: Uint8Array) => {
    try {
      appendFileSync(path, bytes);
    } catch (error) {
      throw fileError(error, 'write', path);
    }
  };
  append(versionEvent(now()));
  if (again) append(sessionStart({ wallTime: now(), step: from }));
  return {
    onMetrics: (line) => {
      append(summaryEvent({ wallTime: now(), step: line.step }, { scalars: scalarsOf(line) }));
    },
    onSamples: async (picture, step) => {
      const png = readFileSync(picture);
      const { width, height } = decodePng(png, { name: picture });
      const histograms: Histogram[] = [];
      for (const [net, module] of Object.entries(modules)) {
        if (module === average) continue;
        for (const [name, weight] of module.namedParameters()) {
          histograms.push(histogramOf(`${net}/${name}`, await weight.read()));
        }
      }
      const images = [{ tag: 'samples', width, height, png }];
      append(summaryEvent({ wallTime: now(), step }, { images, histograms }));
    },
  };
}

function scalarsOf({ step: _step, ...values }: MetricLine) {
  return Object.entries(values).map(([tag, value]) => ({ tag, value }));
}

/** A file that is not there yet; its name begins as TensorBoard wants it, and sorts by time. */
function newFile(run: string): string {
  const name = `events.out.tfevents.${Math.floor(Date.now() / 1000)}.wgsagan`;
  let path = join(run, name);
  for (let i = 1; existsSync(path); i++) path = join(run, `${name}.${i}`);
  try {
    writeFileSync(path, '', { flag: 'wx' });
  } catch (error) {
    throw fileError(error, 'write', path);
  }
  return path;
}
