// Tries bad files on everything that reads one: weight files, checkpoints, configs, and images and archives of them.
//   node scripts/fuzz.mjs [--cases OF_EACH_KIND, 10000] [--seed 1] [--out FILE]     exit code 1 where one crashes, hangs or writes elsewhere
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

const load = (name) => import(pathToFileURL(join(root, 'test', 'fuzz', name)).href);

const { fuzzFiles } = await load('files.ts');
const { fuzzData } = await load('data.ts');
let told = performance.now();
const onCase = (done, total) => {
  if (performance.now() - told < 10_000) return;
  told = performance.now();
  process.stderr.write(`damaged data: ${done} of ${total}\n`);
};
const counts = [...(await fuzzFiles(cases, seed)), ...(await fuzzData(cases, seed, onCase))];
for (const { kind, cases: tried, refused, slowestMs } of counts) {
  process.stdout.write(
    `${kind}: ${tried} cases, ${refused} refused, the slowest ${slowestMs.toFixed(0)} ms\n`,
  );
}
if (flags.out !== undefined) {
  await writeWhole(flags.out, `${JSON.stringify({ cases, seed, counts }, null, 1)}\n`);
}
