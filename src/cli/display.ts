import { readFileSync } from 'node:fs';
import { SingleBar } from 'cli-progress';
import pc from 'picocolors';
import type { DataProgress, Dataset } from '../data/dataset.ts';
import type { AdapterSummary } from '../gpu/adapter.ts';
import { decodePng } from '../io/png.ts';
import type { TrainConfig } from '../train/options.ts';
import type { MetricLine } from '../train/run-folder.ts';
import type { ReadyInfo } from '../train/ready.ts';
import type { TrainEvents, TrainResult } from '../train/trainer.ts';
import type { Alarm } from '../train/watch.ts';
import { shellQuote } from '../util/quote.ts';
import { previewText } from './preview.ts';
import type { PreviewKind } from './preview.ts';

/** Seconds between lines where there is no terminal to draw a bar on. */
const plainInterval = 10;

/** What `train` shows: a bar on a terminal, a line now and then in a log. */
export class TrainDisplay implements TrainEvents {
  readonly #config: TrainConfig;
  readonly #preview: PreviewKind | undefined;
  readonly #live = process.stdout.isTTY;
  #ready = false;
  /** Nobody reads any more. */
  #muted = false;
  /** Does the last line say how far work between two steps is? */
  #working = false;
  #bar: SingleBar | undefined;
  #line: MetricLine | undefined;
  #shown: ReadyInfo['shown'] = {};
  #lastPlain = performance.now();
  #firstStep = 0;
  #step = 0;
  #started = performance.now();

  /** `preview`: how to show each grid, if at all. */
  constructor(config: TrainConfig, preview?: PreviewKind) {
    this.#config = config;
    this.#preview = preview;
    process.stdout.once('error', () => {
      this.close();
      this.#muted = true;
    });
  }

  log(text: string): void {
    if (this.#muted) return;
    // The bar keeps the cursor in its line: it is taken away, and drawn again below the text.
    this.#bar?.stop();
    process.stdout.write(`${this.#working ? '\r\x1b[K' : ''}${text}\n`);
    this.#working = false;
    this.#bar?.start(this.#config.steps, this.#step, this.#payload());
  }

  dataProgress({ stage, done, total }: DataProgress): void {
    if (!this.#live || this.#muted) return;
    const of = total === undefined ? '' : `/${total}`;
    process.stdout.write(`\r\x1b[K${stage}: ${done}${of}${done === total ? '\n' : ''}`);
  }

  /** How far work between two steps is, on a terminal; `log` writes over the line. */
  work(what: string, done: number, total: number): void {
    if (!this.#live || this.#muted) return;
    if (!this.#working) this.#bar?.stop();
    this.#working = true;
    process.stdout.write(`\r\x1b[K${what}: ${done}/${total}`);
  }

  dataset(dataset: Dataset): void {
    this.log(`data      ${dataset.description}`);
  }

  device(adapter: AdapterSummary): void {
    this.log(`adapter   ${adapter.name} (${adapter.kind})`);
  }

  /** Is there a step to finish, and something to save? */
  get ready(): boolean {
    return this.#ready;
  }

  /** From here on a signal is heard by what runs, and not by the process at once. */
  begin(): void {
    this.#ready = true;
  }

  onReady(info: ReadyInfo): void {
    this.begin();
    const { preset, batch } = this.#config;
    const millions = (n: number) => `${(n / 1e6).toFixed(2)} M`;
    const mib = (n: number) => `${(n / 2 ** 20).toFixed(0)} MiB`;
    const counts = Object.entries(info.parameters).map(([name, n]) => `${name} ${millions(n)}`);
    this.#shown = info.shown;
    this.#firstStep = info.firstStep;
    this.#step = info.firstStep;
    this.log(`model     ${preset}: ${counts.join(', ')} parameters`);
    if (info.stage !== undefined) this.onStage(info.stage);
    this.log(
      `step      batch ${batch}, ${info.launches} launches, ${info.gflopPerStep.toFixed(2)} GFLOP, ` +
        `${mib(info.plannedBytes)} planned (${mib(info.unplannedBytes)} unplanned) + ${mib(info.residentBytes)} resident`,
    );
    if (info.tuned > 0) {
      this.log(`kernels   ${info.tuned} of ${info.operations} operations as tuned on this adapter`);
    }
    if (info.otherKernels) {
      this.log(
        'kernels   not those that the run was trained with so far: its bits may differ from here on',
      );
    }
    if (info.firstStep > 0) this.log(`resumed   at step ${info.firstStep}`);
    this.#started = this.#lastPlain = performance.now();
    if (this.#live && !this.#muted) this.#openBar();
  }

  onStage(stage: string): void {
    this.log(`stage     ${stage}`);
  }

  onStep(step: number): void {
    this.#step = step;
    this.#bar?.update(step, this.#payload());
    if (this.#bar !== undefined) return;
    const now = performance.now();
    if ((now - this.#lastPlain) / 1000 < plainInterval) return;
    this.#lastPlain = now;
    const { left, losses, rate } = this.#payload();
    const parts = [`step ${step}/${this.#config.steps}`, losses, rate, `${left} left`];
    this.log(parts.filter((part) => part !== '').join('  '));
  }

  onMetrics(line: MetricLine): void {
    this.#line = line;
  }

  onAlarm({ step, text }: Alarm): void {
    this.log(pc.yellow(`alarm     step ${step}: ${text}`));
  }

  onSamples(path: string, step: number): void {
    if (step < this.#config.steps) this.log(pc.dim(`samples   ${path}`));
    if (this.#preview === undefined) return;
    const picture = decodePng(readFileSync(path), { name: path });
    this.log(previewText(this.#preview, picture, process.stdout.columns));
  }

  finish(
    result: TrainResult,
    { run, paths }: { run: string; paths: { losses: string; metrics: string; report: string } },
  ): void {
    this.close();
    const how = {
      finished: `finished ${result.step} steps`,
      stopped: `stopped after step ${result.step}, saved`,
      time: `time is up after step ${result.step}, saved`,
    }[result.why];
    const folder = shellQuote(run);
    const more = result.why === 'finished' ? ` --steps ${2 * result.step}` : '';
    this.log(
      [
        '',
        pc.bold(how),
        `picture     ${result.samples}`,
        `losses      ${paths.losses}`,
        `report      ${paths.report}`,
        `run folder  ${run}`,
        `waited      ${(100 * result.wait).toFixed(1)} % of the time for images`,
        `go on       npx wgsagan train --out ${folder} --resume${more}`,
        `sample      npx wgsagan sample --run ${folder} --n 64 --seed 1 --out grid.png`,
      ].join('\n'),
    );
  }

  close(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }

  #openBar(): void {
    this.#bar = new SingleBar({
      format: '{bar} {value}/{total}  {losses}  {rate}  {left} left',
      barsize: 24,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      stream: process.stdout,
      clearOnComplete: true,
      hideCursor: true,
      // A signal is `onInterrupt`'s: the bar's own handler would stop it behind our back.
      gracefulExit: false,
      etaBuffer: 50,
    });
    this.#bar.start(this.#config.steps, this.#firstStep, this.#payload());
  }

  #payload() {
    const [line, done] = [this.#line, this.#step - this.#firstStep];
    if (done === 0) return { losses: 'compiling', rate: '', left: '…' };
    const { steps, timeLimit } = this.#config;
    const elapsed = (performance.now() - this.#started) / 1000;
    const ofSteps = (steps - this.#step) * (elapsed / done);
    const ofTime = (timeLimit ?? Infinity) * 60 - elapsed;
    const seconds = Math.max(0, Math.min(ofSteps, ofTime));
    const left = duration(seconds);
    // The first line of metrics may be far off.
    if (line === undefined) return { losses: '', rate: '', left };
    return {
      losses: Object.entries(this.#shown)
        .map(([name, short]) => `${short} ${line[name]?.toFixed(3)}`)
        .join(' '),
      rate: `${line.imagesPerSecond.toFixed(0)} ${this.#config.frames > 1 ? 'clips' : 'images'}/s`,
      left,
    };
  }
}

function duration(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
