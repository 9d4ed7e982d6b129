import { existsSync } from 'node:fs';
import { Command } from 'commander';
import type { ExitState } from './main.ts';
import { adapterOption, someText } from './options.ts';
import { codeOfRun } from './signals.ts';
import { runTraining } from './train.ts';

/** What `npm start` trains: small enough for two CPU cores, done within five minutes with set-up. */
const demo = { data: 'avatars:thumbs', preset: 'sagan-32-tiny', steps: 2000, timeLimit: 3.5 };

export function demoCommand(state: ExitState): Command {
  return new Command('demo')
    .description('train the smallest SAGAN on generated faces for a few minutes')
    .option('--out <dir>', 'run folder; default the first free runs/demo-N', someText)
    .addOption(adapterOption())
    .action(async (flags: { out?: string; adapter: string }) => {
      const out = flags.out ?? firstFree();
      const result = await runTraining({ ...flags, out }, demo);
      if (result.why === 'stopped') state.code = codeOfRun(result.why, result.signal);
    });
}

function firstFree(): string {
  for (let i = 1; ; i++) if (!existsSync(`runs/demo-${i}`)) return `runs/demo-${i}`;
}
