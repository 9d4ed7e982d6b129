import { Command, CommanderError } from 'commander';
import pc from 'picocolors';
import { engineVersion } from '../gpu/platform.ts';
import { UserError, messageOf } from '../util/errors.ts';
import { didYouMean } from '../util/nearest.ts';
import { attentionCommand } from './attention.ts';
import { benchCommand } from './bench.ts';
import { dashboardCommand } from './dashboard.ts';
import { dataCommand } from './data.ts';
import { demoCommand } from './demo.ts';
import { doctorCommand } from './doctor.ts';
import { evalCommand } from './eval.ts';
import { explainCommand } from './explain.ts';
import { exportCommand } from './export.ts';
import { importCommand } from './import.ts';
import { profileCommand } from './profile.ts';
import { reconstructCommand } from './reconstruct.ts';
import { reportCommand } from './report.ts';
import { sampleCommand } from './sample.ts';
import { seq2seqCommand } from './seq2seq.ts';
import { outliveReaders } from './signals.ts';
import { trainCommand } from './train.ts';
import { translateCommand } from './translate.ts';
import { tuneCommand } from './tune.ts';

/**
 * Exit codes: 0 done, 1 something failed, 2 the user's mistake, 75 saved with steps left (SIGTERM, a time limit), 130
 * interrupted.
 */
export async function main(argv: readonly string[]): Promise<number> {
  outliveReaders();
  const program = new Command('wgsagan')
    .description('Train and study attention GANs with GPU kernels that a person can read.')
    .version(engineVersion())
    .showSuggestionAfterError(true)
    .exitOverride();
  const state = { code: 0 };
  for (const command of commands) program.addCommand(quieted(command(state)));
  program.configureOutput(quiet);
  try {
    if (argv.length === 0) {
      program.outputHelp();
      return 0;
    }
    await program.parseAsync([...argv], { from: 'user' });
    return state.code;
  } catch (error) {
    return report(error, program);
  }
}

const commands = [
  ...[trainCommand, sampleCommand, attentionCommand, reconstructCommand],
  ...[evalCommand, exportCommand, importCommand],
  ...[dataCommand, seq2seqCommand, translateCommand, profileCommand, explainCommand],
  ...[reportCommand, dashboardCommand],
  ...[benchCommand, tuneCommand, doctorCommand, demoCommand],
];

/** Commander's own error lines are printed by `report`, in one shape with all others. */
const quiet = { writeErr: () => undefined };

/** A command and those below it, which throw instead of ending the process. */
function quieted(command: Command): Command {
  command.commands.forEach(quieted);
  return command.exitOverride().configureOutput(quiet);
}

/** Set by a command that ends in another way than well. */
export interface ExitState {
  code: number;
}

function report(error: unknown, program: Command): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    const message = error.message.replace(/^error: /, '').replaceAll('\n', ' ');
    const unknown = /unknown command '(.+?)'/.exec(message)?.[1];
    const names = program.commands.map((c) => c.name());
    const hint =
      unknown === undefined || message.includes('Did you mean') ? '' : didYouMean(unknown, names);
    complain(`${message}${hint}`);
    return 2;
  }
  if (error instanceof UserError) {
    complain(error.message.replaceAll(/\s*\n\s*/g, ' '));
    return 2;
  }
  complain(messageOf(error));
  if (error instanceof Error && process.env['DEBUG'] !== undefined) console.error(error.stack);
  return 1;
}

function complain(message: string): void {
  process.stderr.write(`${pc.red('wgsagan:')} ${message}\n`);
}
