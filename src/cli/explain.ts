import { Command } from 'commander';
import { openGpu } from '../gpu/device.ts';
import type { Program } from '../gpu/program.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { explainProgram, findEntry } from '../train/inspect/explain.ts';
import type { Explanation } from '../train/inspect/explain.ts';
import { entryText, explanationText } from '../train/inspect/explain-text.ts';
import { lifetimesSvg } from '../train/inspect/lifetimes.ts';
import { buildStep } from '../train/inspect/step.ts';
import { checkWritable } from './files.ts';
import type { ExitState } from './main.ts';
import { adapterOption, addStepOptions, someText, stepConfig } from './options.ts';

interface Flags {
  readonly entry?: string;
  readonly json?: string;
  readonly svg?: string;
  readonly adapter: string;
}

export function explainCommand(_state: ExitState): Command {
  const command = new Command('explain')
    .description(
      'print the captured program of a training step, its memory plan, or the WGSL of a launch',
    )
    .option('--entry <which>', "one launch by its number or kernel's name, with its WGSL", someText)
    .option('--json <file>', 'write everything as JSON', someText)
    .option('--svg <file>', 'draw when each buffer holds which tensor', someText)
    .addOption(adapterOption());
  addStepOptions(command);
  return command.action(async (options: Flags & Record<string, unknown>) => {
    await explain(options);
  });
}

async function explain(flags: Flags & Record<string, unknown>): Promise<void> {
  const config = stepConfig(flags);
  const { json, svg } = flags;
  if (json !== undefined) checkWritable('--json', json, 'the program', 'json');
  if (svg !== undefined) checkWritable('--svg', svg, 'the picture', 'svg');
  const gpu = await openGpu({ adapter: flags.adapter });
  try {
    const program = await buildStep(gpu, config);
    const explanation = explainProgram(program, { adapter: gpu.adapter, config });
    const { entry } = flags;
    const text =
      entry === undefined ? explanationText(explanation) : oneEntry(program, explanation, entry);
    process.stdout.write(`${text}\n`);
    if (json !== undefined)
      await writeFileAtomic(json, `${JSON.stringify(explanation, null, 2)}\n`);
    if (svg !== undefined) await writeFileAtomic(svg, lifetimesSvg(explanation));
  } finally {
    gpu.close();
  }
}

/** A launch and its WGSL exactly as it was compiled: constants put in, nothing else changed. */
function oneEntry(program: Program, { entries }: Explanation, wanted: string): string {
  const found = findEntry(entries, wanted);
  const spec = program.entries[found.index]?.dispatch.spec;
  const places = entries.filter(({ kernel }) => kernel === found.kernel).map(({ index }) => index);
  return [
    `// ${found.pass}`,
    ...entryText(found)
      .split('\n')
      .map((line) => `// ${line}`),
    `// ${found.kernel} runs as launch ${places.join(', ')}; entry point ${spec?.entry ?? ''}`,
    '',
    spec?.code.trimEnd() ?? '',
  ].join('\n');
}
