// Tries bad files on everything that reads one: weight files, checkpoints, configs, and images and archives of them.
//   node scripts/fuzz.mjs [--cases 10000] [--seed 1] [--out FILE]     exit code 1 where one crashes, hangs or writes elsewhere
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { pathToFileURL } from 'node:url';
import { register } from 'tsx/esm/api';
import { writeWhole } from './lib/process.mjs';
import { root } from './lib/source.mjs';

const { values: flags } = parseArgs({
  options: {
    cases: { type: 'string', default: '10000' },
    seed: { type: 'string', default: '1' },
    out: { type: 'string' },
  },
});
const [cases, seed] = [Number(flags.cases), Number(flags.seed)];
register();

/** A module of the fuzzer, or nothing where the clone has none of that name. */
async function load(name) {
  const path = join(root, 'test', 'fuzz', name);
  return existsSync(path) ? import(pathToFileURL(path).href) : {};
}

const { fuzzFiles } = await load('files.ts');
const { fuzzData } = await load('data.ts');
const counts = await fuzzFiles(cases, seed);
for (const { kind, refused, slowestMs } of counts) {
  process.stdout.write(
    `${kind}: ${cases} cases, ${refused} refused, the slowest ${slowestMs.toFixed(0)} ms\n`,
  );
}
if (fuzzData !== undefined)
  process.stdout.write(`${JSON.stringify(await fuzzData(cases, seed))}\n`);
if (flags.out !== undefined) {
  await writeWhole(flags.out, `${JSON.stringify({ cases, seed, counts }, null, 1)}\n`);
}
