// The order in which a file's writing reaches the disk, from the system calls themselves: a power cut at any moment leaves
// the old file or the new one.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'wgsagan-order-')));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const root = fileURLToPath(new URL('../..', import.meta.url));
const traced = 'openat,write,pwrite64,writev,fsync,rename,renameat,renameat2,mkdir,mkdirat,close';
const { status, error } = spawnSync('strace', ['-o', '/dev/null', 'true']);
const reason = status === 0 ? '' : ` (${error?.message ?? 'strace may not trace here'})`;

/** What a program does to the files below `folder`, a line a call: `fsync a.bin`, `rename .a.bin.….tmp a.bin`. */
function callsOf(program: string): string[] {
  const log = join(folder, '..', `${folder.split('/').at(-1) ?? ''}.log`);
  const run = ['--import', 'tsx', '--input-type=module', '-e', program];
  const options = ['-f', '-qq', '-y', '-s', '512', '-e', `trace=${traced}`, '-o', log];
  execFileSync('strace', [...options, process.execPath, ...run], { cwd: root });
  const text = readFileSync(log, 'utf8');
  rmSync(log);
  return text.split('\n').flatMap((line) => {
    // A call that another thread interrupts is printed in two halves; the first has its arguments.
    const [, name = '', rest = ''] = /^\d+ +(\w+)\((.*)$/.exec(line) ?? [];
    const paths = [...rest.matchAll(/[<"](\/[^>"]*)[>"]/g)].map(([, path = '']) => path);
    const own = [...new Set(paths.filter((path) => path.startsWith(folder)))];
    if (own.length === 0 || rest.includes('ENOENT')) return [];
    const inside = own.map((path) =>
      path.slice(folder.length + 1).replace(/\.\d+-\d+-\d+\./, '.N.'),
    );
    const created = name === 'openat' && !rest.includes('O_CREAT') ? 'open' : name;
    return [`${created} ${inside.map((path) => path || '.').join(' ')}`];
  });
}

/** The calls that matter, in their order, each once in a row. */
const stepsOf = (calls: readonly string[]) =>
  calls.filter((call, i) => !call.startsWith('open ') && call !== calls[i - 1]);

describe.skipIf(reason !== '')(`the system calls${reason}`, () => {
  test('of a file: another name, written, synced, closed, renamed, the folder synced', () => {
    const program = `
      import { writeFileAtomic } from '${root}src/io/atomic.ts';
      await writeFileAtomic('${folder}/a.bin', (function* () { yield Buffer.alloc(9); yield Buffer.alloc(5); })());`;
    expect(stepsOf(callsOf(program))).toEqual([
      'openat .a.bin.N.tmp',
      'write .a.bin.N.tmp',
      'fsync .a.bin.N.tmp',
      'close .a.bin.N.tmp',
      'rename .a.bin.N.tmp a.bin',
      'fsync .',
      'close .',
    ]);
  });

  test('of folders: each that got a new one is synced', () => {
    const program = `
      import { makeFolder } from '${root}src/io/atomic.ts';
      await makeFolder('${folder}/b/c');
      await makeFolder('${folder}/b/c');`;
    const steps = stepsOf(callsOf(program)).filter((call) => /^(mkdir|fsync)/.test(call));
    const [last] = steps.slice(-1);
    expect(steps.filter((call) => call.startsWith('fsync'))).toEqual(['fsync b', 'fsync .']);
    // The second call makes nothing and has nothing to sync.
    expect(last).toMatch(/^mkdir(at)? b\/c$/);
  });
});
