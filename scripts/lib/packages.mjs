// npm's packages in a clone: installed when they are missing or are not what package-lock.json says.
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { SetupError, complaint, runNpm, writeWhole } from './process.mjs';

/**
 * Are the packages of `root` those of its lock file? The answer is remembered in node_modules under the lock's hash.
 * Without a lock file it is enough that there are packages.
 */
export function packagesAreFresh(root) {
  const lock = join(root, 'package-lock.json');
  const installed = join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(installed)) return false;
  if (!existsSync(lock)) return true;
  const text = readFileSync(lock);
  const stamp = stampOf(root);
  const hash = createHash('sha256').update(text).digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return true;
  if (!lockAgrees(JSON.parse(text), JSON.parse(readFileSync(installed)))) return false;
  writeWhole(stamp, hash);
  return true;
}

/** Does what npm says it installed hold every package that the lock demands, in its version? */
export function lockAgrees(lock, installed) {
  return Object.entries(lock.packages).every(([path, wanted]) => {
    const found = installed.packages[path];
    if (path === '' || wanted.link) return true;
    return found ? found.version === wanted.version : wanted.optional || wanted.devOptional;
  });
}

const stampOf = (root) => join(root, 'node_modules', '.wgsagan-lock-hash');

/** Installs the packages with npm, whose own output is shown only if it fails. */
export async function installPackages(root) {
  const command = existsSync(join(root, 'package-lock.json')) ? 'ci' : 'install';
  const result = await runNpm([command, '--no-fund', '--no-audit', '--loglevel=error'], {
    cwd: root,
  });
  if (result.code !== 0) {
    process.stderr.write(result.stderr);
    throw new SetupError(
      `npm ${command} failed (${complaint(result.stderr)}): check the network and run it by hand`,
    );
  }
  if (command === 'ci') {
    const hash = createHash('sha256').update(readFileSync(join(root, 'package-lock.json')));
    writeWhole(stampOf(root), hash.digest('hex'));
  }
}

/** Makes `npx wgsagan` find a clone's own command. */
export function linkBin(root) {
  const target = join(root, 'scripts', 'wgsagan.mjs');
  const link = join(root, 'node_modules', '.bin', 'wgsagan');
  mkdirSync(dirname(link), { recursive: true });
  if (process.platform === 'win32') {
    writeFileSync(`${link}.cmd`, `@node "${target}" %*\r\n`);
    return;
  }
  const wanted = relative(dirname(link), target);
  const found = lstatSync(link, { throwIfNoEntry: false });
  if (found?.isSymbolicLink() && readlinkSync(link) === wanted) return;
  rmSync(link, { force: true });
  symlinkSync(wanted, link);
  chmodSync(target, 0o755);
}
