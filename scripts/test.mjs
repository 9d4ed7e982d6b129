// `npm test`: set-up with both software drivers, then vitest, then one plain line of counts. Arguments go to vitest.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { SOFTWARE } from './lib/drivers.mjs';
import { run } from './lib/process.mjs';
import { root } from './lib/source.mjs';
import { runScript, setup } from './setup.mjs';

/** @returns {{ passed: number, failed: number, skipped: number }} of vitest's JSON report */
export function countResults(report) {
  // A file that cannot be loaded has no tests to fail, and counts as one failure.
  const broken = report.testResults.filter(
    ({ status, assertionResults }) =>
      status === 'failed' && assertionResults.every((test) => test.status !== 'failed'),
  );
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests + broken.length,
    skipped: report.numPendingTests + report.numTodoTests,
  };
}

async function main() {
  const { gpu, missing } = await setup({ drivers: SOFTWARE, unlessGpu: true });
  if (gpu !== null) process.stderr.write(`test: the device tests run on ${gpu}\n`);
  for (const name of missing) process.stderr.write(`test: device tests are NOT run on ${name}\n`);

  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-test-'));
  const file = join(folder, 'report.json');
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
  const args = [vitest, 'run', ...reporters, ...process.argv.slice(2)];
  const { code } = await run(process.execPath, args, { cwd: root, inherit: true });
  try {
    const { passed, failed, skipped } = countResults(JSON.parse(readFileSync(file, 'utf8')));
    process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`);
    return code !== 0 ? code : Number(failed > 0);
  } catch {
    process.stderr.write('test: vitest ended without a report\n');
    return code || 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await runScript(main);
