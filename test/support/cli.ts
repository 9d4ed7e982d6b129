import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, inject } from 'vitest';

export interface CliResult {
  /** Null where a signal ended the process. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  /** What wgsagan printed there; Dawn's own warnings are left out. */
  readonly stderr: string;
}

export interface CliOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** The process is killed and the call rejects after this long. Default two minutes. */
  readonly timeoutMs?: number;
}

/** A running command. */
export interface CliProcess {
  /** What it has printed so far. */
  readonly output: () => { readonly stdout: string; readonly stderr: string };
  readonly kill: (signal: NodeJS.Signals) => void;
  readonly pid: number;
  /** Goes away as a reader of stdout and stderr, as `| head` does: what the process prints then is an EPIPE. */
  readonly stopReading: () => void;
  readonly result: Promise<CliResult>;
  /** Resolves when `condition` holds, looked at every few milliseconds. Rejects if the process ends before. */
  readonly until: (what: string, condition: () => boolean) => Promise<void>;
}

const pollMs = 4;
/** Dawn's own lines on opening a software adapter: it prints them itself, and has no switch that silences them. */
const dawnNoise = /^Warning: max\w+ artificially reduced from \d+ to \d+ .*\n/gm;

/** Starts `wgsagan …` as a process of its own, as a user does. */
export function startCli(args: readonly string[], options: CliOptions = {}): CliProcess {
  const { cwd, env, timeoutMs = 120_000 } = options;
  const child = spawn(process.execPath, [inject('command'), ...args], {
    cwd,
    // What a test runner sets must not change what the command prints.
    env: { ...process.env, FORCE_COLOR: undefined, NO_COLOR: '1', DEBUG: undefined, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const printed = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8');
    child[name].on('data', (text: string) => (printed[name] += text));
  }
  const result = ended(child, printed, { timeoutMs, args });
  // A test that fails before it awaits the result must not fail a second time.
  result.catch(() => undefined);
  return {
    output: () => printed,
    kill: (signal) => child.kill(signal),
    pid: child.pid ?? 0,
    stopReading: () => {
      child.stdout.destroy();
      child.stderr.destroy();
    },
    result,
    async until(what, condition) {
      while (!condition()) {
        if (child.exitCode !== null || child.signalCode !== null) {
          const { stdout, stderr } = await result;
          throw new Error(`wgsagan ended before ${what}:\n${stdout}${stderr}`);
        }
        await sleep(pollMs);
      }
    },
  };
}

function ended(
  child: ChildProcess,
  printed: { readonly stdout: string; readonly stderr: string },
  { timeoutMs, args }: { readonly timeoutMs: number; readonly args: readonly string[] },
): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      const { stdout, stderr } = printed;
      const call = `wgsagan ${args.join(' ')}`;
      reject(new Error(`${call} was still running after ${timeoutMs} ms:\n${stdout}${stderr}`));
    }, timeoutMs);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, ...printed, stderr: printed.stderr.replaceAll(dawnNoise, '') });
    });
  });
}

/** Runs `wgsagan …` to its end. */
export function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return startCli(args, options).result;
}

/** Runs `wgsagan …` and expects it to end well. */
export async function runWell(
  args: readonly string[],
  options: CliOptions = {},
): Promise<CliResult> {
  const result = await runCli(args, options);
  expect(result, `wgsagan ${args.join(' ')}\n${result.stderr}`).toMatchObject({
    code: 0,
    stderr: '',
  });
  return result;
}

/** The message of a mistake: exit code 2, exactly one line `wgsagan: …` on stderr, no stack. */
export function complaintOf(result: CliResult): string {
  expect(result.stderr).toMatch(/^wgsagan: [^\n]+\n$/);
  expect(result.stderr).not.toMatch(/\s+at .*:\d+:\d+/);
  expect(result.code).toBe(2);
  return result.stderr.slice('wgsagan: '.length, -1);
}

/** A folder of this test file, removed after it. */
export function tempFolder(): string {
  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-e2e-'));
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}
