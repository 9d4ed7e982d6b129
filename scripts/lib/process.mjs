// Child processes, progress lines, a lock between set-ups, and files that appear whole or not at all.
import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** A failure with a remedy in its text: printed as one line, without a stack. */
export class SetupError extends Error {}

/**
 * Runs a program to its end, its output captured.
 * @returns {Promise<{ code: number, stdout: string, stderr: string }>} code 127 if it is not there, 124 past its time
 */
export function run(program, args, { cwd, env, timeoutMs, inherit = false } = {}) {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      cwd,
      env: env ?? process.env,
      stdio: ['ignore', inherit ? 'inherit' : 'pipe', inherit ? 'inherit' : 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    let late = false;
    const timer = setTimeout(
      () => {
        late = true;
        child.kill('SIGKILL');
      },
      timeoutMs ?? 2 ** 31 - 1,
    );
    child.stdout?.on('data', (data) => (stdout += data));
    child.stderr?.on('data', (data) => (stderr += data));
    child.on('error', (error) => {
      clearTimeout(timer);
      resolve({ code: 127, stdout, stderr: error.message });
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code: late ? 124 : (code ?? 1), stdout, stderr: stderr + (signal ?? '') });
    });
  });
}

/** npm as it was started, else the one on the path. */
export function runNpm(args, options = {}) {
  const script = process.env.npm_execpath;
  if (script && /npm-cli\.c?js$/.test(script)) {
    return run(process.execPath, [script, ...args], options);
  }
  return process.platform === 'win32'
    ? run('cmd.exe', ['/d', '/c', 'npm', ...args], options)
    : run('npm', args, options);
}

/** The line of a program's complaint that says most: apt's or npm's first real error, else the last line. */
export function complaint(text) {
  const noise = /complete log|Some index files|npm error (code|errno|syscall)/;
  const lines = text
    .trim()
    .split('\n')
    .filter((line) => !noise.test(line));
  const error = lines.find((line) => /^(E:|W: Failed|npm error|npm ERR!)/.test(line));
  return (error ?? lines.at(-1) ?? '').replace(/^(E:|W:|npm error|npm ERR!)\s*/, '').trim();
}

/** Calls `report` with the bytes below `folder` until `work` ends: on a terminal twice a second, else every 10 s. */
export async function withProgress(folder, work, report) {
  const timer = setInterval(() => report(sizeOf(folder)), process.stderr.isTTY ? 500 : 10_000);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}

export function sizeOf(folder) {
  let bytes = 0;
  try {
    for (const entry of readdirSync(folder, { recursive: true })) {
      const info = statSync(join(folder, entry), { throwIfNoEntry: false });
      if (info?.isFile()) bytes += info.size;
    }
  } catch {
    // The folder changes while it is measured; the next tick measures again.
  }
  return bytes;
}

export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 10e6 ? 1 : 0)} MB`;
}

/** Writes a file under a temporary name and renames it, so that no reader ever sees half of it. */
export function writeWhole(path, text) {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, text, { flush: true });
  renameSync(temporary, path);
}

/** Runs `work` while no other set-up of this machine holds the lock at `path`; a dead holder's lock is taken over. */
export async function withLock(path, work, say = () => undefined) {
  mkdirSync(dirname(path), { recursive: true });
  let told = false;
  while (!tryLock(path)) {
    if (!told) say('another set-up is at work; waiting for it');
    told = true;
    await sleep(250);
  }
  try {
    return await work();
  } finally {
    rmSync(path, { force: true });
  }
}

function tryLock(path) {
  try {
    writeFileSync(path, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  if (isStale(path)) {
    // Whoever wins the rename removes the lock; both then try to take it anew.
    const grave = `${path}.${process.pid}.stale`;
    try {
      renameSync(path, grave);
      rmSync(grave, { force: true });
    } catch {
      // Another set-up was faster.
    }
  }
  return false;
}

function isStale(path) {
  try {
    const age = Date.now() - statSync(path).mtimeMs;
    const pid = Number(readFileSync(path, 'utf8'));
    // Between its creation and its writing a lock is empty for an instant.
    if (!pid) return age > 5000;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return error.code === 'ESRCH' && existsSync(path);
  }
}
