// A folder as a few archives that are unpacked side by side.
import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join, relative } from 'node:path';
import { driversFolder } from '../lib/drivers.mjs';
import { must } from './commands.mjs';

/** xz's flags. Its x86 filter saves a megabyte of machine code. The software driver is for a proof only, which is in a hurry. */
const FLAGS = {
  node: ['--x86', '--lzma2=preset=6'],
  native: ['--x86', '--lzma2=preset=6'],
  app: ['-6'],
  software: ['-1'],
};

/**
 * Writes NAME.tar.xz into `folder` for Node (`node`), other machine code (`native`), everything else (`app`), and, where the
 * tree has one, the software driver (`software`).
 * @returns {Promise<string[]>} the archives' paths
 */
export async function archiveTree(tree, folder) {
  const groups = new Map();
  for (const path of leaves(tree)) {
    const name = archiveOf(tree, path);
    groups.set(name, [...(groups.get(name) ?? []), path]);
  }
  return Promise.all([...groups].map(([name, paths]) => archive(tree, { name, paths, folder })));
}

/** The files of a folder and its empty folders, sorted. */
function leaves(tree) {
  return readdirSync(tree, { recursive: true, withFileTypes: true })
    .map((entry) => ({ entry, path: join(entry.parentPath, entry.name) }))
    .filter(({ entry, path }) => !entry.isDirectory() || readdirSync(path).length === 0)
    .map(({ path }) => relative(tree, path))
    .sort();
}

function archiveOf(tree, path) {
  if (path === join('bin', 'node')) return 'node';
  if (path.startsWith('software/')) return 'software';
  return isMachineCode(join(tree, path)) ? 'native' : 'app';
}

function isMachineCode(path) {
  if (!lstatSync(path).isFile()) return false;
  const file = openSync(path);
  try {
    const head = Buffer.alloc(4);
    readSync(file, head);
    return head.readUInt32BE() === 0x7f454c46;
  } finally {
    closeSync(file);
  }
}

/** The same files give the same tar, which is compressed once: xz takes minutes, and Node seldom changes. */
async function archive(tree, { name, paths, folder }) {
  const tar = join(folder, `${name}.tar`);
  const list = join(folder, `${name}.list`);
  writeFileSync(list, paths.join('\n'));
  const same = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner'];
  const modes = ['--format=gnu', '--mode=u+w,go-w,a+rX'];
  await must('tar', [...same, ...modes, '-C', tree, '-cf', tar, '-T', list]);
  rmSync(list);

  const cache = join(driversFolder(), '..', 'bundle');
  mkdirSync(cache, { recursive: true });
  const kept = join(cache, `${name}-${await digest(tar, FLAGS[name])}.tar.xz`);
  if (!existsSync(kept)) {
    await must('xz', ['--keep', '--threads=1', ...FLAGS[name], tar]);
    for (const old of readdirSync(cache).filter((file) => file.startsWith(`${name}-`))) {
      rmSync(join(cache, old), { force: true });
    }
    copyFileSync(`${tar}.xz`, `${kept}.${process.pid}`);
    renameSync(`${kept}.${process.pid}`, kept);
  }
  copyFileSync(kept, `${tar}.xz`);
  rmSync(tar);
  return `${tar}.xz`;
}

async function digest(path, flags) {
  const hash = createHash('sha256').update(flags.join(' '));
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest('hex').slice(0, 32);
}
