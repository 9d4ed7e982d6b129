import { Worker, parentPort } from 'node:worker_threads';
import { UserError, messageOf } from '../util/errors.ts';

/** What a thread can be asked for, by name. Arguments and results are copied, so they are data. */
type Calls<C> = { readonly [K in keyof C]: (...args: never[]) => unknown };
type Arguments<C extends Calls<C>, K extends keyof C> = Parameters<C[K]>;
/** A call's result as the other side has it. */
type Result<C extends Calls<C>, K extends keyof C> = Awaited<ReturnType<C[K]>>;

interface Request {
  readonly id: number;
  readonly call: string;
  readonly args: readonly unknown[];
}

type Answer =
  | { readonly kind: 'done'; readonly id: number; readonly value: unknown }
  | {
      readonly kind: 'failed';
      readonly id: number;
      readonly message: string;
      readonly stack: string | undefined;
      /** Is it a `UserError`? */
      readonly ofUser: boolean;
    }
  | { readonly kind: 'event'; readonly event: unknown };

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A module that runs in a thread of its own and answers calls (`serveCalls`), which this thread does not wait for. The
 * process lives on for it only while it owes an answer.
 */
export class Thread<C extends Calls<C>, E> {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private asked = 0;
  private gone: Error | undefined;

  /** `module`: its URL without extension. `work`, what it does, in words for an error. */
  constructor(module: URL, work: string, onEvent: (event: E) => void) {
    this.worker = startWorker(module);
    this.worker.unref();
    this.worker.on('message', (answer: Answer) => {
      if (answer.kind === 'event') onEvent(answer.event as E);
      else this.settle(answer);
    });
    const failed = (error: unknown) => {
      this.fail(new Error(`the thread that ${work} failed: ${messageOf(error)}`));
    };
    this.worker.on('error', failed);
    this.worker.on('messageerror', failed);
    this.worker.on('exit', () => {
      this.fail(new Error(`the thread that ${work} has ended`));
    });
  }

  /** The thread has ended, of itself or by `end`: it will answer nothing more. */
  get ended(): boolean {
    return this.gone !== undefined;
  }

  /**
   * Rejects with the call's error, a `UserError` as such, or where the thread has ended. `give`: arrays of the arguments that
   * are given away and not copied, if their memory is theirs alone.
   */
  ask<K extends keyof C & string>(
    call: K,
    args: Arguments<C, K>,
    give: readonly (ArrayBufferView | undefined)[] = [],
  ): Promise<Result<C, K>> {
    if (this.gone !== undefined) return Promise.reject(this.gone);
    const request: Request = { id: this.asked++, call, args };
    const answer = new Promise((resolve, reject) => {
      this.worker.postMessage(request, buffersOf(give));
      if (this.waiting.size === 0) this.worker.ref();
      this.waiting.set(request.id, { resolve, reject });
    });
    return answer as Promise<Result<C, K>>;
  }

  /** Ends it in the midst of its work; calls that have no answer yet reject. Native code must be at rest: it would crash. */
  async end(): Promise<void> {
    await this.worker.terminate();
  }

  private settle(answer: Answer & { kind: 'done' | 'failed' }): void {
    const waiting = this.waiting.get(answer.id);
    this.waiting.delete(answer.id);
    if (this.waiting.size === 0) this.worker.unref();
    if (answer.kind === 'done') waiting?.resolve(answer.value);
    else waiting?.reject(errorOf(answer));
  }

  /** What comes first is the reason. */
  private fail(reason: Error): void {
    this.gone ??= reason;
    for (const { reject } of this.waiting.values()) reject(this.gone);
    this.waiting.clear();
  }
}

/** The error as it was thrown in the thread, less what it had as a cause. */
function errorOf({ ofUser, message, stack }: Answer & { kind: 'failed' }): Error {
  const error = new (ofUser ? UserError : Error)(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}

/** Compiled, a module runs as it is; from source it needs tsx, as this one does. */
function startWorker(module: URL): Worker {
  if (import.meta.url.endsWith('.js')) return new Worker(new URL(`${module.href}.js`));
  const tsx = JSON.stringify(import.meta.resolve('tsx/esm/api'));
  const register = encodeURIComponent(`import { register } from ${tsx}; register();`);
  const execArgv = ['--import', `data:text/javascript,${register}`];
  return new Worker(new URL(`${module.href}.ts`), { execArgv });
}

/** Sends an event to whoever started this thread. */
export function tell(event: unknown): void {
  send({ kind: 'event', event });
}

/** Makes this thread answer calls. Of a result that holds arrays, those are given away and not copied. */
export function serveCalls<C extends Calls<C>>(calls: C): void {
  port().on('message', ({ id, call, args }: Request) => {
    const work = calls[call as keyof C] as unknown as (...args: readonly unknown[]) => unknown;
    Promise.resolve()
      .then(() => work(...args))
      .then(
        (value) => {
          const parts = typeof value === 'object' && value !== null ? Object.values(value) : [];
          send({ kind: 'done', id, value }, buffersOf(parts));
        },
        (error: unknown) => {
          const stack = error instanceof Error ? error.stack : undefined;
          const ofUser = error instanceof UserError;
          send({ kind: 'failed', id, message: messageOf(error), stack, ofUser });
        },
      );
  });
}

/** The memory of arrays that have it for themselves. */
function buffersOf(values: readonly unknown[]): ArrayBuffer[] {
  return values.flatMap((value) => {
    if (!ArrayBuffer.isView(value) || !(value.buffer instanceof ArrayBuffer)) return [];
    return value.byteLength === value.buffer.byteLength ? [value.buffer] : [];
  });
}

function send(answer: Answer, give: ArrayBuffer[] = []): void {
  port().postMessage(answer, give);
}

function port() {
  if (parentPort === null) throw new Error('this module is a thread, and is not imported');
  return parentPort;
}
