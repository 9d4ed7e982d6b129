import { existsSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { Command } from 'commander';
import { openGpu } from '../gpu/device.ts';
import { readSeq2Seq } from '../train/seq2seq/checkpoint.ts';
import { readLine, translateLines } from '../train/seq2seq/translate.ts';
import { UserError } from '../util/errors.ts';
import type { ExitState } from './main.ts';
import { adapterOption, someText } from './options.ts';
import { tunedChoices } from './tuned.ts';

interface Flags {
  readonly run: string;
  readonly adapter: string;
}

export function translateCommand(_state: ExitState): Command {
  return new Command('translate')
    .description('translate sequences with a run of seq2seq, greedily')
    .argument('[text...]', 'sequences, one an argument; lines of stdin if there are none')
    .requiredOption('--run <dir>', 'run folder that seq2seq wrote', someText)
    .addOption(adapterOption())
    .action(async (given: string[], flags: Flags) => {
      await translate(given, flags);
    });
}

async function translate(given: readonly string[], { run, adapter }: Flags): Promise<void> {
  if (!existsSync(run)) throw new UserError(`there is no run folder ${run}`);
  const checkpoint = await readSeq2Seq(run);
  const asked = given.length > 0 ? given : await linesOfStdin();
  const lines = asked.map((line) => readLine(checkpoint, line));
  const unknown = [...new Set(lines.flatMap((line) => line.unknown))];
  if (unknown.length > 0) {
    process.stderr.write(`${run} did not learn ${unknown.slice(0, 5).join(', ')}\n`);
  }
  const gpu = await openGpu({ adapter, tuned: tunedChoices });
  try {
    for (const line of await translateLines(gpu, checkpoint, lines)) {
      process.stdout.write(`${line}\n`);
    }
  } finally {
    gpu.close();
  }
}

async function linesOfStdin(): Promise<string[]> {
  if (process.stdin.isTTY) {
    throw new UserError('there is nothing to translate: give text, or lines on stdin');
  }
  const lines = (await text(process.stdin)).split(/\r?\n/).filter((line) => line.trim() !== '');
  if (lines.length === 0) throw new UserError('there is nothing to translate on stdin');
  return lines;
}
