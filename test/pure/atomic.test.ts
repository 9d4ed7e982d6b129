import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { writeFileAtomic } from '../../src/io/atomic.ts';
import { errorCode, fileError } from '../../src/io/errno.ts';
import { UserError } from '../../src/util/errors.ts';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-atomic-'));
});
afterEach(() => rm(folder, { recursive: true }));

describe('writeFileAtomic', () => {
  it('writes text and bytes, over an older file too, and leaves nothing else', async () => {
    const path = join(folder, 'a.bin');
    await writeFileAtomic(path, 'older and longer');
    await writeFileAtomic(path, Uint8Array.of(0, 255, 7));
    expect([...(await readFile(path))]).toEqual([0, 255, 7]);
    expect(await readdir(folder)).toEqual(['a.bin']);
  });

  it('lets writers at the same time each write a whole file', async () => {
    const path = join(folder, 'a.txt');
    const texts = Array.from({ length: 20 }, (_, i) => String(i).repeat(10_000));
    await Promise.all(texts.map((text) => writeFileAtomic(path, text)));
    expect(texts).toContain(await readFile(path, 'utf8'));
    expect(await readdir(folder)).toEqual(['a.txt']);
  });

  it('says what is wrong with the path, and removes its temporary file', async () => {
    const missing = join(folder, 'none', 'a.txt');
    await expect(writeFileAtomic(missing, 'x')).rejects.toThrow(
      new UserError(`cannot write ${missing}: no such file or folder (ENOENT)`),
    );
    await writeFile(join(folder, 'file'), '');
    const inFile = join(folder, 'file', 'a.txt');
    await expect(writeFileAtomic(inFile, 'x')).rejects.toThrow(
      new UserError(`cannot write ${inFile}: a part of the path is a file, not a folder (ENOTDIR)`),
    );
    const taken = join(folder, 'taken');
    await mkdir(taken);
    await expect(writeFileAtomic(taken, 'x')).rejects.toThrow(
      new UserError(`cannot write ${taken}: it is a folder, not a file (EISDIR)`),
    );
    expect((await readdir(folder)).sort()).toEqual(['file', 'taken']);
  });
});

describe('fileError', () => {
  const system = (code: string) => Object.assign(new Error(`${code}: text`), { code });

  it.each([
    ['ENOSPC', 'the disk is full; free some space or choose a folder on another disk'],
    ['EDQUOT', 'the disk quota is used up; free some space or choose a folder on another disk'],
    ['EACCES', 'permission denied; choose a folder that you own or change its permissions'],
    ['EROFS', 'the file system is read-only; choose a folder on another disk'],
    ['EXDEV', 'EXDEV: text'],
  ])('explains %s', (code, text) => {
    const error = fileError(system(code), 'write', 'run/a.png');
    expect(error).toEqual(new UserError(`cannot write run/a.png: ${text} (${code})`));
    expect(errorCode((error as UserError).cause)).toBe(code);
  });

  it('leaves our own mistakes and finished messages alone', () => {
    const mistakes = [new TypeError('x'), system('ERR_INVALID_ARG_TYPE'), new UserError('said'), 3];
    for (const error of mistakes) expect(fileError(error, 'write', 'a')).toBe(error);
  });
});
