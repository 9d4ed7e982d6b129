// Sequence to sequence by its commands: a run stopped by ^C goes on to the same bits, a file of pairs, translating.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readMetrics } from '../../src/train/run-folder.ts';
import type { Seq2SeqLine } from '../../src/train/seq2seq/trainer.ts';
import { complaintOf, runCli, runWell, startCli, tempFolder } from '../support/cli.ts';
import { namesIn, snapshot } from '../support/files.ts';

const folder = tempFolder();
const small = [
  ...['--d-model', '16', '--heads', '2', '--layers', '1', '--feed-forward', '16', '--batch', '4'],
  ...['--warmup', '2', '--held-out', '6'],
];
const checkpointAt = (run: string, step: number) =>
  join(run, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`);
const linesOf = (run: string) => readMetrics<Seq2SeqLine>(run);

describe('seq2seq', () => {
  test('stopped by ^C, it goes on to the bits of a run that nothing stopped', async () => {
    const train = (run: string) => [
      ...['seq2seq', '--task', 'reverse', '--out', join(folder, run), ...small],
      ...['--length', '4', '--steps', '80', '--dropout', '0.2', '--log-every', '1'],
      ...['--checkpoint-every', '40', '--eval-every', '80'],
    ];
    const { stdout } = await runWell(train('whole'));
    expect(stdout).toMatch(/^held out {4}\d+\.\d\d % of 6 pairs exact, decoded greedily$/m);
    const [whole, run] = [join(folder, 'whole'), join(folder, 'stopped')];
    expect(namesIn(whole)).toEqual([
      ...['checkpoints', 'config.yaml', 'losses.svg', 'machine.json', 'metrics.jsonl'],
      'report.html',
    ]);

    const stopped = startCli(train('stopped'));
    await stopped.until('a few steps', () => linesOf(run).length >= 3);
    stopped.kill('SIGINT');
    const result = await stopped.result;
    expect(result).toMatchObject({ code: 130, stderr: '' });
    expect(result.stdout).toMatch(/^stopped after step \d+, saved$/m);
    await runWell(['seq2seq', '--out', run, '--resume']);
    // Ended before its first checkpoint, it begins again.
    const early = join(folder, 'early');
    mkdirSync(early);
    copyFileSync(join(whole, 'config.yaml'), join(early, 'config.yaml'));
    const begun = await runWell(['seq2seq', '--out', early, '--resume']);
    expect(begun.stdout).toMatch(/^resumed {3}at step 0, from config.yaml/m);
    expect(readFileSync(checkpointAt(early, 80))).toEqual(readFileSync(checkpointAt(whole, 80)));
    expect(readFileSync(checkpointAt(run, 80))).toEqual(readFileSync(checkpointAt(whole, 80)));
    const losses = (of: string) =>
      linesOf(of).map(({ step, loss, exact }) => ({ step, loss, exact }));
    expect(losses(run)).toEqual(losses(whole));

    const before = snapshot(folder);
    const again = await runCli(train('whole'));
    expect(complaintOf(again)).toContain('holds another run; go on with it by --resume');
    const other = await runCli(['seq2seq', '--out', whole, '--resume', '--d-model', '32']);
    expect(complaintOf(other)).toMatch(/is of another run: --d-model was 16, now 32$/);
    const image = await runCli(['sample', '--run', whole, '--out', join(folder, 'x.png')]);
    expect(complaintOf(image)).toContain('was not written by wgsagan 1.x training');
    expect(snapshot(folder)).toEqual(before);
  });

  test('learns from a file of pairs, and translates', async () => {
    const pairs = join(folder, 'pairs.tsv');
    const words = Array.from({ length: 40 }, (_, i) => (i * 7919).toString(3));
    writeFileSync(pairs, words.map((w) => `${w}\t${Array.from(w).sort().join('')}\n`).join(''));
    const run = join(folder, 'pairs');
    const { stdout } = await runWell([
      ...['seq2seq', '--pairs', pairs, '--tokens', 'chars', '--out', run, ...small],
      ...['--steps', '4'],
    ]);
    expect(stdout).toContain(`34 pairs of ${pairs} (3 and 3 chars), 6 held out`);
    const {
      code,
      stdout: said,
      stderr,
    } = await runCli([...['translate', '--run', run, '0121', '2'], '1x']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: `${run} did not learn x\n` });
    expect(said.split('\n')).toHaveLength(4);
    const long = await runCli(['translate', '--run', run, '01210121012101210121']);
    expect(complaintOf(long)).toMatch(/has 20 chars; the run was trained on at most \d+$/);
  });

  test('a loss that is no number ends it, and leaves the checkpoint before', async () => {
    const run = join(folder, 'wild');
    const { code, stderr } = await runCli([
      ...['seq2seq', '--task', 'copy', '--out', run, ...small, '--lr', '1e30'],
      ...['--checkpoint-every', '1'],
    ]);
    const way = `go on from the newest checkpoint in ${run} by --resume with a lower --lr`;
    const told = `wgsagan: step 2 gave loss NaN; ${way}\n`;
    expect({ code, stderr }).toEqual({ code: 1, stderr: told });
    expect(namesIn(join(run, 'checkpoints'))).toEqual(['step-0000001.safetensors']);
  });

  test.each([
    [['--task', 'sort', '--lrr', '1'], "unknown option '--lrr' (Did you mean --lr?)"],
    [['--pairs', 'nowhere.tsv'], 'nowhere.tsv'],
  ])('%j is one clear line', async (flags, message) => {
    const out = join(folder, 'never');
    const result = await runCli(['seq2seq', '--out', out, ...flags], { cwd: folder });
    expect(complaintOf(result)).toContain(message);
    expect(namesIn(out)).toEqual([]);
  });
});
