// Programs that must end well.
import { basename } from 'node:path';
import { SetupError, complaint, run } from '../lib/process.mjs';
import { root } from '../lib/source.mjs';

/** Runs a program in the repository's root; a SetupError with what it complained of where it fails. */
export async function must(program, args) {
  const result = await run(program, args, { cwd: root });
  if (result.code === 0) return result;
  const why = complaint(result.stderr || result.stdout) || `exit code ${result.code}`;
  throw new SetupError(`${basename(program)} ${basename(args[0] ?? '')}: ${why}`);
}
