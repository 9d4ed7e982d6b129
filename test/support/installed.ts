// The package as a user has it once it is installed: compiled, without its sources. Made once for all tests of the command
// line, which so begin in half the time.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  interface ProvidedContext {
    /** The `wgsagan` command of that package. */
    readonly command: string;
  }
}

const root = fileURLToPath(new URL('../..', import.meta.url));

export function setup(project: TestProject): () => void {
  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-installed-'));
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const only = ['--declaration', 'false', '--sourceMap', 'false'];
  const out = ['--outDir', join(folder, 'dist'), ...only];
  execFileSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', ...out], { cwd: root });
  for (const name of ['package.json', 'scripts', 'kernels', 'src/report/page']) {
    cpSync(join(root, name), join(folder, name), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  project.provide('command', join(folder, 'scripts', 'wgsagan.mjs'));
  return () => {
    rmSync(folder, { recursive: true, force: true });
  };
}
