import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { UserError } from '../util/errors.ts';

/** What bench/peers/run.ts takes; see there. */
export interface PeersOptions {
  readonly cases?: readonly string[];
  readonly peers?: readonly string[];
  readonly batch?: number;
  readonly name?: string;
  readonly rounds?: number;
  readonly quick?: boolean;
  readonly adapter?: string;
}

interface PeersModule {
  readonly runPeers: (options: PeersOptions) => Promise<unknown>;
}

/**
 * Runs the comparison with other libraries. Those are a package of their own, bench/peers, in the repository alone, so that
 * nobody who installs wgsagan gets them. Throws a `UserError` where it is not there or not installed.
 */
export async function runPeersOf(
  options: PeersOptions,
  folder = new URL('../../bench/peers/', import.meta.url),
): Promise<void> {
  const program = new URL('run.ts', folder);
  if (!existsSync(program)) {
    throw new UserError(
      'bench peers is not part of the installed package: run it in a clone of the repository',
    );
  }
  if (!existsSync(new URL('node_modules', folder))) {
    const path = fileURLToPath(folder);
    throw new UserError(
      `the peers are not installed: run \`npm install --prefix ${path}\`, see README.md there`,
    );
  }
  const { runPeers } = (await import(program.href)) as PeersModule;
  await runPeers(options);
}
