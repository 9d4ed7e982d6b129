import { linkSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { errorCode, fileError } from '../io/errno.ts';
import { UserError } from '../util/errors.ts';

/** Who trains into a run folder. */
interface Holder {
  readonly pid: number;
  readonly host: string;
  /** When the process started, where the system tells: a number is given anew, to another process, in time. */
  readonly started: string | null;
}

/** Name of the lock file in a run folder. */
export const lockName = 'lock';

/** A lock that is made is empty for an instant; one that stays empty was left by a process that died then. */
const emptyMs = 5000;

/**
 * Takes a run folder for this process. A lock whose process is dead is taken over; one that is this process's own is
 * enough. Throws a `UserError` where another process has it, or the folder cannot be written to.
 */
export function lockRun(run: string): void {
  const path = join(run, lockName);
  for (let tries = 0; tries < 5; tries++) {
    try {
      writeFileSync(path, JSON.stringify(holderOf(process.pid)), { flag: 'wx' });
      return;
    } catch (error) {
      if (errorCode(error) !== 'EEXIST') {
        // On a full disk there is an empty file by now, which would look like the lock of another process.
        if (readLock(run) === '') rmSync(path, { force: true });
        throw fileError(error, 'write', path);
      }
    }
    refuseLocked(run);
    if (holdsRun(run)) return;
    bury(run);
  }
  throw new UserError(`${run} is in use by another process; wait for it, or stop it`);
}

/** Gives a run folder back, if this process has it. */
export function unlockRun(run: string): void {
  if (holdsRun(run)) rmSync(join(run, lockName), { force: true });
}

/** Has this process taken the run folder? */
export function holdsRun(run: string): boolean {
  const text = readLock(run);
  return text !== undefined && text === JSON.stringify(holderOf(process.pid));
}

/** Throws a `UserError` where another living process has the run folder. Changes nothing. */
export function refuseLocked(run: string): void {
  const text = readLock(run);
  if (text === undefined || holdsRun(run)) return;
  const path = join(run, lockName);
  const holder = parseHolder(text);
  if (holder === undefined) {
    const { mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? { mtimeMs: 0 };
    if (Date.now() - mtimeMs > emptyMs) return;
    throw new UserError(`${run} is in use by another process; wait for it, or stop it`);
  }
  const { pid, host } = holder;
  if (host !== os.hostname()) {
    throw new UserError(
      `${run} is in use by process ${pid} on ${host}; if it no longer runs there, remove ${path}`,
    );
  }
  if (lives(holder)) {
    throw new UserError(`${run} is in use by process ${pid}; wait for it, or stop it`);
  }
}

/** Takes a dead process's lock away. Whoever wins the rename removes it; all then try to make their own. */
function bury(run: string): void {
  const path = join(run, lockName);
  const dead = readLock(run);
  const grave = join(run, `.${lockName}.${process.pid}-0.tmp`);
  try {
    renameSync(path, grave);
    // Between the two lines above another process may have buried the dead one's lock and made its own.
    if (readFileSync(grave, 'utf8') !== dead) linkSync(grave, path);
  } catch {
    // Another process was faster.
  } finally {
    rmSync(grave, { force: true });
  }
}

function readLock(run: string): string | undefined {
  try {
    return readFileSync(join(run, lockName), 'utf8');
  } catch {
    return undefined;
  }
}

function parseHolder(text: string): Holder | undefined {
  try {
    const holder = JSON.parse(text) as Holder | null;
    return Number.isSafeInteger(holder?.pid) ? (holder ?? undefined) : undefined;
  } catch {
    return undefined;
  }
}

function holderOf(pid: number): Holder {
  return { pid, host: os.hostname(), started: startOf(pid) };
}

function lives({ pid, started }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it lives, and is another user's.
    if (errorCode(error) === 'ESRCH') return false;
  }
  const now = startOf(pid);
  return started === null || now === null || started === now;
}

/** Boot and tick at which a process started, of Linux; null elsewhere. */
function startOf(pid: number): string | null {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    // The name in brackets may hold anything; the start is the 20th field after it.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ');
    return `${boot}/${fields?.[19] ?? ''}`;
  } catch {
    return null;
  }
}
