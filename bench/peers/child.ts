/** The parent's side of worker.ts: one child process, its replies, its time limit. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { Reply, Request, Task } from './worker.ts';

/** What starts a peer's process; the task is its last argument. */
export interface Command {
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** A file of this folder under this Node, with TypeScript. */
export function nodeCommand(file: string): Command {
  const tsx = import.meta.resolve('tsx');
  return { program: process.execPath, args: ['--import', tsx, pathOf(file)] };
}

export function pathOf(file: string): string {
  return fileURLToPath(new URL(file, import.meta.url));
}

/** Everything that ends a peer's turn: an error of its own, a crash, the time limit. */
export class PeerFailure extends Error {}

export class PeerProcess {
  readonly #child: ChildProcess;
  readonly #replies: Reply[] = [];
  /** The last lines of what it printed. */
  #printed = '';
  #ended: string | undefined;
  #wake: () => void = () => undefined;

  constructor({ program, args, env }: Command, task: Task) {
    const child = spawn(program, [...args, JSON.stringify(task)], {
      env: { ...process.env, ...env },
      stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    });
    this.#child = child;
    const keep = (text: Buffer) => (this.#printed = (this.#printed + text.toString()).slice(-4000));
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    // A child that has died takes nothing more: its end says why.
    child.stdin.on('error', () => undefined);
    createInterface({ input: child.stdio[3] as Readable }).on('line', (line) => {
      this.#replies.push(JSON.parse(line) as Reply);
      this.#wake();
    });
    child.on('error', (error) => this.#end(error.message));
    child.on('close', (code, signal) => this.#end(signal ?? `exit code ${code ?? -1}`));
  }

  /** The first reply: resolves when the case is computed and warm. */
  ready(seconds: number) {
    return this.#next(seconds, (reply) => ('ready' in reply ? reply : undefined));
  }

  async sample(request: Request, seconds: number) {
    this.#child.stdin?.write(`${JSON.stringify(request)}\n`);
    return this.#next(seconds, (reply) => ('ms' in reply ? reply : undefined));
  }

  /** Ends the process and waits for its end: what it held is free for the next. */
  async close(): Promise<void> {
    if (this.#ended !== undefined) return;
    const gone = new Promise<void>((resolve) => this.#child.once('close', () => resolve()));
    this.#child.stdin?.end();
    const impatience = setTimeout(() => this.#child.kill('SIGKILL'), 3000);
    await gone;
    clearTimeout(impatience);
  }

  /** Ends it at once; for the end of this process. */
  kill(): void {
    this.#child.kill('SIGKILL');
  }

  async #next<R>(seconds: number, pick: (reply: Reply) => R | undefined): Promise<R> {
    const deadline = performance.now() + 1000 * seconds;
    for (;;) {
      const reply = this.#replies.shift();
      if (reply !== undefined) {
        const picked = pick(reply);
        if (picked !== undefined) return picked;
        throw new PeerFailure('error' in reply ? oneLine(reply.error) : 'an unexpected reply');
      }
      if (this.#ended !== undefined)
        throw new PeerFailure(`${this.#ended}: ${lastLine(this.#printed)}`);
      const left = deadline - performance.now();
      if (left <= 0) {
        this.kill();
        throw new PeerFailure(`not done after ${seconds} s`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  #end(reason: string): void {
    this.#ended ??= reason;
    this.#wake();
  }
}

function lastLine(text: string): string {
  return oneLine(text.trim().split('\n').at(-1) ?? '') || 'it printed nothing';
}

function oneLine(text: string): string {
  return text.replaceAll(/\s+/g, ' ').trim().slice(0, 200);
}
