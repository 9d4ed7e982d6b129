#!/usr/bin/env node
// The `wgsagan` command.
import { SetupError } from './lib/process.mjs';
import { runCli } from './lib/source.mjs';

try {
  process.exitCode = await runCli(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`wgsagan: ${error.message}\n`);
  process.exitCode = 1;
}
