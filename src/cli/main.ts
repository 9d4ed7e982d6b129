import { Command, CommanderError } from 'commander';
import pc from 'picocolors';
import { UserError, messageOf } from '../util/errors.ts';
import { didYouMean } from '../util/nearest.ts';
import { demoCommand } from './demo.ts';
import { doctorCommand } from './doctor.ts';
import { explainCommand } from './explain.ts';
import { profileCommand } from './profile.ts';
import { sampleCommand } from './sample.ts';
import { outliveReaders } from './signals.ts';
import { trainCommand } from './train.ts';

/** Exit codes: 0 done, 1 something failed, 2 the user's mistake, 130 interrupted. */
export async function main(argv: readonly string[]): Promise<number> {
  outliveReaders();
  const program = new Command('wgsagan')
    .description('Train and study attention GANs with GPU kernels that a person can read.')
    .version('0.1.0')
    .showSuggestionAfterError(true)
    .exitOverride();
  const state = { code: 0 };
  const commands = [
    ...[trainCommand, sampleCommand, profileCommand, explainCommand],
    ...[doctorCommand, demoCommand],
  ];
  for (const command of commands) {
    program.addCommand(command(state).exitOverride().configureOutput(quiet));
  }
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

/** Commander's own error lines are printed by `report`, in one shape with all others. */
const quiet = { writeErr: () => undefined };

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
