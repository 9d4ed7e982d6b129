#!/usr/bin/env node
// Packs everything that measures a GPU into one folder, for a machine that has a driver but neither Node nor a network:
//   node scripts/gpu-bundle.mjs [--out DIR] [--software]
//   node scripts/gpu-bundle.mjs --prove [--out DIR] [--only PART,…] [--patience FACTOR]
// `--software` adds lavapipe. `--prove` packs such a bundle and runs it here, in namespaces of its own where there is nothing
// but a shell; the results go to DIR. docs/gpu-bundle.md says what to do with it.
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { packBundle } from './bundle/pack.mjs';
import { proveBundle } from './bundle/prove.mjs';
import { runScript, setup } from './setup.mjs';

const say = (line) => process.stderr.write(`gpu-bundle: ${line}\n`);

async function main() {
  const { values } = parseArgs({
    options: {
      out: { type: 'string' },
      software: { type: 'boolean', default: false },
      prove: { type: 'boolean', default: false },
      only: { type: 'string' },
      patience: { type: 'string', default: '4' },
    },
  });
  const { prove, only, patience } = values;
  const software = values.software || prove;
  await setup({ quiet: true, drivers: software ? ['lavapipe'] : [] });
  const out = resolve(values.out ?? (prove ? 'gpu-proof' : 'gpu-bundle'));
  if (!prove) {
    await packBundle({ out, software, say });
    return 0;
  }
  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-bundle-'));
  try {
    const bundle = join(folder, 'gpu-bundle');
    await packBundle({ out: bundle, software, say });
    const args = ['--patience', patience, ...(only === undefined ? [] : ['--only', only])];
    return await proveBundle({ bundle, results: out, args });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await runScript(main);
