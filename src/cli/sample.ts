import { existsSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { openGpu } from '../gpu/device.ts';
import type { Gpu } from '../gpu/device.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng } from '../io/png.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { morphOf, movingOf, stillOf } from '../train/grids.ts';
import { sampleCheckpoint } from '../train/sample.ts';
import type { GeneratorChoice } from '../train/sample.ts';
import type { SamplePlan } from '../train/sampling/plan.ts';
import { generatorIdentity, readyFolder, streamCheckpoint } from '../train/sampling/stream.ts';
import type { SampleFolder } from '../train/sampling/stream.ts';
import { UserError } from '../util/errors.ts';
import { shellQuote } from '../util/quote.ts';
import { checkWritable } from './files.ts';
import { addGeneratorOptions, openChosen } from './generator.ts';
import type { GeneratorFlags } from './generator.ts';
import type { ExitState } from './main.ts';
import { adapterOption, positiveInt, someText, toNumber, wholeNumber } from './options.ts';
import { previewKind, previewOption, previewText, terminal } from './preview.ts';
import type { PreviewKind } from './preview.ts';
import { CountBar } from './progress.ts';
import { checkPlanFlags, planIdentity, planOf } from './sample-plan.ts';
import type { PlanFlags, PlanShape } from './sample-plan.ts';
import { onInterrupt } from './signals.ts';
import { tunedChoices } from './tuned.ts';

interface Flags extends GeneratorFlags, PlanFlags {
  readonly run: string;
  readonly standing?: number;
  readonly out?: string;
  readonly each?: string;
  readonly replace?: boolean;
  readonly adapter: string;
  readonly preview?: string;
}

export function sampleCommand(state: ExitState): Command {
  const command = new Command('sample').description(
    'draw a grid of images from a run, or of clips; or write them one by one',
  );
  return addGeneratorOptions(command)
    .option('--n <count>', 'images, default 64; of --sweep and --interpolate latents', positiveInt)
    .option('--first <index>', 'index of the first image of the seed, from 0', wholeNumber)
    .option('--seed <number>', 'seed of the latents, default 1', wholeNumber)
    .option('--seeds <numbers>', 'one image of each of these, such as 1,2,5', seedList)
    .option(
      '--truncation <psi>',
      'draw numbers of a latent past ±psi again: plainer, better images',
      toNumber,
    )
    .option('--standing <batches>', 'take batch statistics over so many batches', positiveInt)
    .option(
      '--class <name>',
      'one class, by its name or number; every class has rows of its own otherwise',
    )
    .option('--sweep', 'a row a latent, a column a class')
    .option(
      '--interpolate <count>',
      'images on the way from each latent to the next, ends included',
      wholeNumber,
    )
    .option(
      '--out <file>',
      'PNG to write, default grid.png, or .apng of clips and interpolations, which moves; one that is there is replaced',
      someText,
    )
    .option(
      '--each <dir>',
      'a file for each image instead; a folder that holds a part is gone on with',
      someText,
    )
    .option('--replace', 'let --each write over files of other images')
    .addOption(previewOption())
    .addOption(adapterOption())
    .action(async (flags: Flags) => {
      if (await sample(flags)) state.code = 130;
    });
}

function seedList(text: string): readonly number[] {
  const seeds = text.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : NaN));
  if (!seeds.every(Number.isSafeInteger)) {
    throw new InvalidArgumentError(`"${text}" is no list of whole numbers, such as 1,2,5.`);
  }
  if (new Set(seeds).size < seeds.length)
    throw new InvalidArgumentError(`"${text}" names a seed twice.`);
  return seeds;
}

/** Pixels of the largest grid: what a viewer still opens, and the memory of a small machine still holds. */
const mostPixels = 2 ** 26;

/** True where it was interrupted. */
async function sample(flags: Flags): Promise<boolean> {
  const { run, out = 'grid.png', each, standing } = flags;
  if (each !== undefined && flags.out !== undefined) {
    throw new UserError(
      '--out and --each cannot be given together: one picture, or a file an image',
    );
  }
  if (flags.preview !== undefined && each !== undefined) {
    throw new UserError('--preview shows one picture, and --each makes none');
  }
  const shown = previewKind(flags.preview, terminal());
  if (flags.replace === true && each === undefined) {
    throw new UserError('--replace is for --each; --out replaces a picture that is there anyway');
  }
  checkPlanFlags(flags);
  const moves = out.toLowerCase().endsWith('.apng');
  if (!existsSync(run)) throw new UserError(`there is no run folder ${run}`);
  if (each === undefined) checkWritable('--out', out, 'the grid', moves ? 'apng' : 'png');
  const { checkpoint, weights } = await openChosen(flags);
  const { frames } = checkpoint.config;
  if (frames > 1 && flags.interpolate !== undefined) {
    throw new UserError(`--interpolate is for stills; ${run} makes clips`);
  }
  if (each === undefined && moves && frames === 1 && flags.interpolate === undefined) {
    throw new UserError(
      `--out ${out}: ${run} makes stills, which do not move; end it in .png, or give --interpolate`,
    );
  }
  const shape: PlanShape = each !== undefined ? 'each' : moves && frames === 1 ? 'moving' : 'grid';
  const plan = planOf(flags, checkpoint, shape);
  if (each === undefined) checkFits(plan, checkpoint, flags);
  const job = { checkpoint, plan, flags, choice: { weights, standing } };
  const into = each === undefined ? undefined : await readyEach(job, each);
  const gpu = await openGpu({ adapter: flags.adapter, tuned: tunedChoices });
  try {
    if (into !== undefined) return await writeEach(gpu, job, into);
    await writePicture(gpu, job, { out, moves, shown });
    return false;
  } finally {
    gpu.close();
  }
}

interface Job {
  readonly checkpoint: Checkpoint;
  readonly plan: SamplePlan;
  readonly flags: Flags;
  readonly choice: GeneratorChoice;
}

/** Throws a `UserError` for more images than one picture holds. */
function checkFits({ n }: SamplePlan, { config }: Checkpoint, flags: Flags): void {
  const { frames, imageSize } = config;
  const most = Math.floor(mostPixels / (frames * imageSize ** 2));
  if (n <= most) return;
  const each = frames === 1 ? 'images' : `clips of ${frames} frames`;
  const asked = flags.n === n ? `--n ${n} is` : `${n} images are`;
  throw new UserError(
    `${asked} too many for one picture: of ${imageSize}×${imageSize} pixels it holds at most ${most} ${each}; --each writes a file an image`,
  );
}

async function writePicture(
  gpu: Gpu,
  { checkpoint, plan, flags, choice }: Job,
  o: { readonly out: string; readonly moves: boolean; readonly shown: PreviewKind | undefined },
): Promise<void> {
  const { out, moves, shown } = o;
  const { config, progress } = checkpoint;
  const images = await sampleCheckpoint(gpu, checkpoint, { plan, ...choice });
  const replaced = existsSync(out) ? ', in place of the file that was there' : '';
  const picture = stillOf(images, plan.n, config, plan);
  const moving = config.frames > 1 ? movingOf : morphOf;
  const made = moves ? moving(images, plan.n, config) : encodePng(picture.pixels, picture);
  await writeFileAtomic(out, made);
  if (shown !== undefined) {
    process.stdout.write(`${previewText(shown, picture, process.stdout.columns)}\n`);
  }
  process.stdout.write(
    `${out}: ${whatOf(plan.n, config)} from step ${progress.step} (${choice.weights} weights, ${seedsOf(flags)})${replaced}\n`,
  );
}

/** The folder of `--each`, ready for what is missing there. */
function readyEach(
  { checkpoint, plan, flags, choice }: Job,
  folder: string,
): Promise<SampleFolder> {
  const ending = checkpoint.config.frames > 1 ? 'apng' : 'png';
  const identity = { ...generatorIdentity(checkpoint, choice), ...planIdentity(flags) };
  return readyFolder(folder, plan, { identity, ending, replace: flags.replace === true });
}

/** Writes a file an image. True where it was interrupted. */
async function writeEach(gpu: Gpu, job: Job, into: SampleFolder): Promise<boolean> {
  const { checkpoint, plan, flags, choice } = job;
  const { config, progress } = checkpoint;
  const there = plan.n - into.missing.length;
  const stop = { requested: false };
  const bar = new CountBar(plan.n, there, 'images');
  const release = onInterrupt(
    () => (stop.requested = true),
    () => process.exit(130),
  );
  try {
    const onWritten = (count: number) => {
      bar.update(there + count);
      return !stop.requested;
    };
    const written = await streamCheckpoint(gpu, checkpoint, { plan, into, onWritten, ...choice });
    bar.stop();
    const before = there > 0 ? `, ${there} were there` : '';
    process.stdout.write(
      `${into.folder}: ${whatOf(written, config)} from step ${progress.step} (${choice.weights} weights, ${seedsOf(flags)})${before}\n`,
    );
    const left = plan.n - there - written;
    if (left === 0) return false;
    process.stdout.write(
      `stopped: ${left} of ${plan.n} are left; the same command goes on in ${shellQuote(into.folder)}\n`,
    );
    return true;
  } finally {
    bar.stop();
    release();
  }
}

function whatOf(n: number, { frames, imageSize }: Checkpoint['config']): string {
  const what = frames === 1 ? 'images' : `clips of ${frames} frames`;
  return `${n} ${what} of ${imageSize}×${imageSize}`;
}

function seedsOf({ seed = 1, seeds }: Flags): string {
  return seeds === undefined ? `seed ${seed}` : `seeds ${seeds.join()}`;
}
