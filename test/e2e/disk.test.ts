// Full disks and read-only ones, by small file systems in memory. The commands run in a shell that mounts them.
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, inject, test } from 'vitest';
import { runWell, tempFolder } from '../support/cli.ts';
import { writeImages } from '../support/images.ts';
import { noMounts, runMounted } from '../support/mounts.ts';

const reason = noMounts();
const folder = tempFolder();
const images = join(folder, 'images');
const disk = join(folder, 'disk');
const net = '--preset sagan-32-tiny --image-size 8 --width 8 --batch 2';

beforeAll(async () => {
  await writeImages(images, 12);
  mkdirSync(disk);
});

/** Runs lines of shell in which `wgsagan` is the command and `code` prints how one ended. */
const inDisk = (options: string, lines: readonly string[]) =>
  runMounted(
    [
      'export NO_COLOR=1',
      `mount -t tmpfs -o ${options} none '${disk}'`,
      `wgsagan() { '${process.execPath}' '${inject('command')}' "$@"; }`,
      'code() { status=0; "$@" 2>&1 || status=$?; echo "code $status"; }',
      ...lines,
    ].join('\n'),
    { DEBUG: '' },
  );

describe.skipIf(reason !== undefined)(`disks${reason === undefined ? '' : ` (${reason})`}`, () => {
  test('a full one ends the run with one line, and the last checkpoint loads', async () => {
    const grid = join(folder, 'grid.png');
    const shown = inDisk('size=1500k', [
      `code wgsagan train --data '${images}' --out '${disk}/run' ${net} --steps 100000 --log-every 1 --every 1 --sample-every 100000 --keep 100000`,
      `ls -A '${disk}/run/checkpoints'`,
      `code wgsagan sample --run '${disk}/run' --n 4 --out '${grid}'`,
      // One more picture does not fit, and is not left half-written.
      `dd if=/dev/zero of='${disk}/fill' bs=1k 2>/dev/null || true`,
      `code wgsagan sample --run '${disk}/run' --n 4 --out '${disk}/grid.png'`,
      `ls -A '${disk}'`,
    ]);
    const complaint =
      /wgsagan: cannot write (\S+): the disk is full; free some space or choose a folder on another disk \(ENOSPC\); (\S+) is whole: go on from it by --resume\ncode 2/;
    const [, , whole] = complaint.exec(shown) ?? [];
    expect(whole, shown).toMatch(/step-\d+\.safetensors$/);
    expect(shown).not.toContain('.tmp');
    const newest = [...shown.matchAll(/^step-\d+\.safetensors$/gm)].at(-1)?.[0];
    expect(whole).toBe(join(disk, 'run', 'checkpoints', newest ?? ''));
    expect(shown).toMatch(/grid\.png[\s\S]*code 0/);
    expect(readFileSync(grid).subarray(1, 4).toString()).toBe('PNG');
    expect(shown).toMatch(
      /cannot write \S+disk\/grid\.png: the disk is full; .*\ncode 2\nfill\nrun\n$/,
    );
  });

  test('import leaves no run folder on a full one, nor on one that cannot be written to', async () => {
    const [run, weights] = [join(folder, 'source'), join(folder, 'weights.safetensors')];
    await runWell([
      ...['train', '--data', images, '--out', run, ...net.split(' ')],
      ...['--steps', '1'],
    ]);
    await runWell(['export', '--run', run, '--format', 'safetensors', '--out', weights]);
    const shown = inDisk('size=40k', [
      `code wgsagan import '${weights}' --out '${disk}/run' ${net}`,
      `echo "there: $(ls -A '${disk}')."`,
      `mount -o remount,ro none '${disk}'`,
      `code wgsagan import '${weights}' --out '${disk}/run' ${net}`,
      `code wgsagan train --data '${images}' --out '${disk}/run' ${net} --steps 1`,
      `echo "there: $(ls -A '${disk}')."`,
    ]);
    expect(shown).toMatch(
      /^wgsagan: cannot write \S+\.safetensors: the disk is full; [^\n]*\ncode 2\nthere: \.$/m,
    );
    const readOnly =
      /^wgsagan: cannot make \S+run: the file system is read-only; choose a folder on another disk \(EROFS\)\ncode 2$/gm;
    expect(shown.match(readOnly), shown).toHaveLength(2);
    expect(shown).toMatch(/there: \.\n$/);
  });
});
