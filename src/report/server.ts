import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import { errorCode, fileError } from '../io/errno.ts';
import { UserError } from '../util/errors.ts';
import { newestAttention } from './attention.ts';
import type { RunData, RunSummary } from './data.ts';
import { dashboardHtml, scriptOf, styleOf } from './page.ts';
import { picturesOf } from './pictures.ts';
import { readNamed } from './own-files.ts';
import { WatchedRuns } from './watched.ts';
import type { WatchedRun } from './watched.ts';

/** Only this machine: the pages have no password. */
const host = '127.0.0.1';

/** Milliseconds between looks at the folders while somebody watches. */
const lookMs = 1000;

/** Names under which a browser on this machine, or at the other end of a tunnel to it, asks. */
const ownNames = new Set(['127.0.0.1', 'localhost']);

const headers = {
  'Content-Security-Policy': [
    ...["default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:"],
    ...["connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"],
  ].join('; '),
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cache-Control': 'no-store',
};

interface Answer {
  readonly type: string;
  readonly body: string | Uint8Array;
}

/** A running dashboard. */
export interface Dashboard {
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

/**
 * Serves the pages of the runs in some folders on 127.0.0.1, to any number of browsers. Nothing but their metrics, options,
 * pictures and attention maps can be read, and nothing written.
 */
export class DashboardServer {
  readonly #runs: WatchedRuns;
  readonly #server: Server;
  readonly #watchers = new Set<ServerResponse>();
  readonly #pages: ReadonlyMap<string, Answer>;
  #last = '';
  #timer: NodeJS.Timeout | undefined;

  private constructor(folders: readonly string[]) {
    this.#runs = new WatchedRuns(folders);
    this.#pages = new Map([
      ['/', { type: 'text/html; charset=utf-8', body: dashboardHtml() }],
      ['/page.js', { type: 'text/javascript; charset=utf-8', body: scriptOf('dashboard') }],
      ['/page.css', { type: 'text/css; charset=utf-8', body: styleOf() }],
    ]);
    this.#server = createServer((request, response) => {
      this.#handle(request, response);
    });
  }

  /** Port 0 takes any free one. Throws a `UserError` where the port is another's. */
  static async open(folders: readonly string[], port: number): Promise<Dashboard> {
    const dashboard = new DashboardServer(folders);
    const server = dashboard.#server;
    try {
      const listening = once(server, 'listening');
      server.listen(port, host);
      await listening;
    } catch (error) {
      throw portError(error, port);
    }
    const { port: own } = server.address() as AddressInfo;
    const close = () => dashboard.#close();
    return { url: `http://${host}:${own}/`, port: own, close };
  }

  #close(): Promise<void> {
    clearInterval(this.#timer);
    return new Promise((resolve) => {
      this.#server.close(() => {
        resolve();
      });
      this.#server.closeAllConnections();
    });
  }

  #handle(request: IncomingMessage, response: ServerResponse): void {
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    try {
      // A page elsewhere may give its own name this machine's address: what it asks then names it.
      if (!ownNames.has((request.headers.host ?? '').replace(/:\d+$/, ''))) {
        refuse(response, 403, 'this address is for 127.0.0.1 and localhost');
      } else if (request.method !== 'GET') {
        response.setHeader('Allow', 'GET');
        refuse(response, 405, 'nothing here can be changed');
      } else if (request.url === '/events') {
        this.#watch(response);
      } else {
        const answer = this.#answer(request.url ?? '/');
        if (answer === undefined) refuse(response, 404, 'there is nothing here');
        else send(request, response, answer);
      }
    } catch {
      // A file that went away, or may not be read.
      if (!response.headersSent) refuse(response, 404, 'it cannot be read');
      else response.destroy();
    }
  }

  /** What an address stands for. Addresses are taken as they are: nothing is decoded, and no way is followed. */
  #answer(url: string): Answer | undefined {
    const page = this.#pages.get(url);
    if (page !== undefined) return page;
    const [, id = '', what, name] =
      /^\/runs\/([0-9a-f]+)(?:\/(\w+)(?:\/([\w.-]+))?)?$/.exec(url) ?? [];
    const run = this.#runs.get(id);
    if (run === undefined) return undefined;
    if (what === undefined) return json(runData(run));
    if (name === undefined) return undefined;
    const bytes = readNamed(run.folder, what, name);
    if (bytes === undefined) return undefined;
    const type = what === 'attention' ? 'application/json' : 'image/png';
    return { type, body: bytes };
  }

  /** Tells a browser of the runs, now and whenever one changes. */
  #watch(response: ServerResponse): void {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    // The others first: what is new is new for them too.
    this.#tell(this.#runs.look());
    response.write(event(this.#last));
    this.#watchers.add(response);
    response.on('close', () => {
      this.#watchers.delete(response);
      if (this.#watchers.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    });
    this.#timer ??= setInterval(() => {
      this.#tell(this.#runs.look());
    }, lookMs);
  }

  #tell(runs: readonly RunSummary[]): void {
    const text = JSON.stringify(runs);
    if (text === this.#last) return;
    this.#last = text;
    for (const watcher of this.#watchers) watcher.write(event(text));
  }
}

function portError(error: unknown, port: number): unknown {
  const code = errorCode(error);
  if (code === 'EADDRINUSE') {
    return new UserError(
      `--port ${port} is in use by another program; choose another, or 0 for any`,
    );
  }
  return fileError(error, 'listen on', `${host}:${port}`);
}

function event(text: string): string {
  return `event: runs\ndata: ${text}\n\n`;
}

/** A run with its pictures by their addresses. */
function runData({ id, folder, reader }: WatchedRun): RunData {
  const tracks = picturesOf(folder).map(({ kind, files }) => ({
    kind,
    pictures: files.map(({ step, name }) => ({ step, src: `/runs/${id}/samples/${name}` })),
    all: files.length,
  }));
  const maps = newestAttention(folder);
  const attention = maps === undefined ? null : `/runs/${id}/attention/${maps}`;
  return { ...reader.read(), tracks, attention };
}

function json(value: unknown): Answer {
  return { type: 'application/json', body: JSON.stringify(value) };
}

const worthPacking = 2048;

function send(request: IncomingMessage, response: ServerResponse, { type, body }: Answer): void {
  const accepted = request.headers['accept-encoding'] ?? '';
  const packed = type !== 'image/png' && body.length > worthPacking && /\bgzip\b/.test(accepted);
  const bytes = packed ? gzipSync(body) : Buffer.from(body);
  response.writeHead(200, {
    'Content-Type': type,
    'Content-Length': bytes.length,
    ...(packed && { 'Content-Encoding': 'gzip' }),
  });
  response.end(bytes);
}

function refuse(response: ServerResponse, status: number, why: string): void {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' });
  response.end(`${why}\n`);
}
