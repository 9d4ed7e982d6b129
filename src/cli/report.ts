import { existsSync, statSync } from 'node:fs';
import { Command } from 'commander';
import { isRun } from '../report/discover.ts';
import { ReportWriter } from '../report/report.ts';
import { runPaths } from '../train/run-folder.ts';
import { UserError } from '../util/errors.ts';
import { checkWritable } from './files.ts';
import type { ExitState } from './main.ts';
import { someText } from './options.ts';

export function reportCommand(_state: ExitState): Command {
  return new Command('report')
    .description('write the page of a run: curves, samples through time, attention, options')
    .requiredOption('--run <dir>', 'run folder that train or seq2seq wrote', someText)
    .option('--out <file>', 'page to write; default report.html in the run folder', someText)
    .action(async ({ run, out = runPaths(run).report }: { run: string; out?: string }) => {
      checkRun(run);
      checkWritable('--out', out, 'the report', 'html');
      await new ReportWriter(run).write(out);
      const mib = (statSync(out).size / 2 ** 20).toFixed(1);
      process.stdout.write(`${out}: ${mib} MiB, a page that stands alone\n`);
    });
}

/** Throws a `UserError` for a folder that is not there or holds no run. */
function checkRun(run: string): void {
  if (!existsSync(run)) throw new UserError(`there is no run folder ${run}`);
  if (isRun(run)) return;
  throw new UserError(`${run} holds no run: there is neither config.yaml nor metrics.jsonl in it`);
}
