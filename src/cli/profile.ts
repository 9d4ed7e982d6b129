import { Command, Option } from 'commander';
import { openGpu } from '../gpu/device.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { groupings } from '../train/inspect/groups.ts';
import type { Grouping } from '../train/inspect/groups.ts';
import { profileStep } from '../train/inspect/profile.ts';
import type { StepProfile } from '../train/inspect/profile.ts';
import { rooflineSvg } from '../train/inspect/roofline.ts';
import { profileHead, profileTable } from '../train/inspect/tables.ts';
import { chromeTrace } from '../train/inspect/trace.ts';
import { checkWritable } from './files.ts';
import type { ExitState } from './main.ts';
import { adapterOption, addStepOptions, positiveInt, someText, stepConfig } from './options.ts';
import { Progress } from './progress.ts';

interface Flags {
  readonly steps: number;
  readonly by: Grouping;
  readonly json?: string;
  readonly svg?: string;
  readonly trace?: string;
  readonly adapter: string;
}

/** What can be written besides the table: its flag, what it is, the ending of its files, and its text. */
const outputs = [
  ['json', 'the profile', 'json', (made: StepProfile) => `${JSON.stringify(made, null, 2)}\n`],
  ['svg', 'the roofline', 'svg', rooflineSvg],
  ['trace', 'the trace', 'json', (made: StepProfile) => `${JSON.stringify(chromeTrace(made))}\n`],
] as const;

export function profileCommand(_state: ExitState): Command {
  const command = new Command('profile')
    .description('time every launch of a training step against the measured peaks of the device')
    .option('--steps <number>', 'replays that the medians are over', positiveInt, 10)
    .addOption(new Option('--by <what>', 'rows of the table').choices(groupings).default('kernel'))
    .option('--json <file>', 'write everything as JSON', someText)
    .option('--svg <file>', 'draw a roofline', someText)
    .option('--trace <file>', 'write a trace (.json) for Perfetto or chrome://tracing', someText)
    .addOption(adapterOption());
  addStepOptions(command);
  return command.action(async (options: Flags & Record<string, unknown>) => {
    await profile(options);
  });
}

async function profile(flags: Flags & Record<string, unknown>): Promise<void> {
  const config = stepConfig(flags);
  for (const [flag, what, ending] of outputs) {
    const path = flags[flag];
    if (path !== undefined) checkWritable(`--${flag}`, path, what, ending);
  }
  const progress = new Progress();
  const gpu = await openGpu({ adapter: flags.adapter });
  try {
    const measured = await profileStep(gpu, config, {
      replays: flags.steps,
      onProgress: ({ stage, done, total }) => {
        progress.show(total === 1 ? stage : `${stage}: ${done + 1}/${total}`);
      },
    });
    progress.clear();
    process.stdout.write(`${profileHead(measured)}\n\n${profileTable(measured, flags.by)}\n`);
    for (const [flag, , , textOf] of outputs) {
      const path = flags[flag];
      if (path === undefined) continue;
      await writeFileAtomic(path, textOf(measured));
      process.stdout.write(`${flag.padEnd(9)} ${path}\n`);
    }
  } finally {
    progress.clear();
    gpu.close();
  }
}
