// Finds the engine's modules: compiled in an installed package, TypeScript through tsx in a clone.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { SetupError } from './process.mjs';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** Is this a clone (it has its sources) and not an installed package? */
export const isClone = existsSync(join(root, 'src', 'cli'));

let registered = false;

/**
 * Imports a module of the engine by its path below src, without extension: `load('cli/main')`. Throws a `SetupError` in
 * a clone whose packages are not installed.
 */
export async function load(module) {
  try {
    return await importModule(module);
  } catch (error) {
    // Only a package is named in this way; a file of our own that is missing is named by its path.
    const [, name] = /^Cannot find package '([^']+)'/.exec(error.message) ?? [];
    if (!isClone || error.code !== 'ERR_MODULE_NOT_FOUND' || name === undefined) throw error;
    throw new SetupError(`the package ${name} is not installed: run \`npm run setup\``);
  }
}

async function importModule(module) {
  if (!isClone) return import(pathToFileURL(join(root, 'dist', 'src', `${module}.js`)).href);
  if (!registered) {
    const { register } = await import('tsx/esm/api');
    register();
    registered = true;
    process.setSourceMapsEnabled(true);
  }
  return import(pathToFileURL(join(root, 'src', `${module}.ts`)).href);
}

/** Runs the command line in this process; resolves to its exit code. */
export async function runCli(argv) {
  const { main } = await load('cli/main');
  return main(argv);
}
