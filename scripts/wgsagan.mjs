#!/usr/bin/env node
// The `wgsagan` command.
import { runCli } from './lib/source.mjs';

process.exitCode = await runCli(process.argv.slice(2));
