// What the dashboard's server gives, and what it does not: requests are made by hand, as no browser would make them.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RunData, RunSummary } from '../../src/report/data.ts';
import { checkFolders, findRuns } from '../../src/report/discover.ts';
import { DashboardServer } from '../../src/report/server.ts';
import type { Dashboard } from '../../src/report/server.ts';
import { writeRun } from '../support/runs.ts';

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-dashboard-'));
const secret = 'nobody may read this';
let dashboard: Dashboard;
let run = '';
let id = '';

beforeAll(async () => {
  run = writeRun(join(folder, 'runs'), 'a', { attention: true });
  writeRun(join(folder, 'runs', 'deep'), 'b', { lines: 3 });
  writeFileSync(join(folder, 'secret.png'), secret);
  writeFileSync(join(run, 'secret.txt'), secret);
  writeFileSync(join(run, 'samples', 'notes.png'), secret);
  symlinkSync(join(folder, 'secret.png'), join(run, 'samples', 'step-0000007.png'));
  mkdirSync(join(run, 'samples', 'step-0000008.png'));
  dashboard = await DashboardServer.open([join(folder, 'runs')], 0);
  id = (await summaries()).find(({ name }) => name === 'a')?.id ?? '';
});

afterAll(async () => {
  await dashboard.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Reply {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
}

function ask(path: string, options: http.RequestOptions = {}): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const { port } = dashboard;
    const request = http.request({ host: '127.0.0.1', port, path, ...options }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () => {
        const { statusCode: status = 0, headers } = response;
        resolve({ status, headers, body: Buffer.concat(parts) });
      });
    });
    request.on('error', reject);
    request.end();
  });
}

/** What the first event says. */
function summaries(): Promise<RunSummary[]> {
  return new Promise((resolve, reject) => {
    const request = http.get({ host: '127.0.0.1', port: dashboard.port, path: '/events' }, (r) => {
      r.once('data', (part: Buffer) => {
        request.destroy();
        resolve(JSON.parse(/^data: (.*)$/m.exec(part.toString())?.[1] ?? '') as RunSummary[]);
      });
    });
    request.on('error', reject);
  });
}

describe('dashboard', () => {
  test('tells of the runs below its folders, with where each stands', async () => {
    const [a, b] = await summaries();
    expect(a).toMatchObject({ name: 'a', step: 1000, steps: 2000, status: 'stopped', alarms: 0 });
    expect(b).toMatchObject({ name: 'deep/b', step: 30 });
  });

  test('gives the numbers of a run, packed where the browser can unpack, and its files by address', async () => {
    const headers = { 'accept-encoding': 'gzip' };
    const plain = await ask(`/runs/${id}`);
    const packed = await ask(`/runs/${id}`, { headers });
    expect(packed.headers['content-encoding']).toBe('gzip');
    const data = JSON.parse(plain.body.toString()) as RunData;
    const again = JSON.parse(gunzipSync(packed.body).toString()) as RunData;
    expect({ ...again, made: '' }).toEqual({ ...data, made: '' });
    expect(data.series.map(({ key }) => key)).toContain('fd/own classifier');
    const [track] = data.tracks;
    const last = track?.pictures.at(-1);
    const picture = await ask(last?.src ?? '');
    expect(picture.headers['content-type']).toBe('image/png');
    expect(picture.body).toEqual(readFileSync(join(run, 'samples', 'step-0001000.png')));
    const maps = await ask(typeof data.attention === 'string' ? data.attention : '');
    expect(JSON.parse(maps.body.toString())).toMatchObject({ step: 800, samples: 3 });
  });

  test('allows its pages nothing but their own script, style, pictures and numbers', async () => {
    for (const path of ['/', '/page.js', '/page.css', `/runs/${id}`, '/nothing']) {
      const { headers, body } = await ask(path);
      const policy = headers['content-security-policy'] ?? '';
      expect(policy).toContain("default-src 'none'");
      expect(policy).toContain("script-src 'self';");
      expect(policy).not.toContain('unsafe');
      expect(headers['x-content-type-options']).toBe('nosniff');
      expect(headers['access-control-allow-origin']).toBeUndefined();
      if (path === '/') expect(body.toString()).not.toMatch(/<script>|<style|style=| on\w+=/);
    }
  });

  test('gives no file but pictures and attention maps of the runs', async () => {
    const deep = '..%2f..%2fsecret.png';
    const paths = [
      ...[`/runs/${id}/samples/../secret.txt`, `/runs/${id}/samples/..%2fsecret.txt`],
      ...[`/runs/${id}/samples/%2e%2e/secret.txt`, `/runs/${id}/samples/${deep}`],
      ...[`/runs/${id}/samples//etc/passwd`, `/runs/${id}/samples/%2fetc%2fpasswd`],
      ...[`/runs/${id}/../../secret.png`, `/runs/../secret.png`, '/../secret.png', '/etc/passwd'],
      ...[`//etc/passwd`, `/runs/${id}/checkpoints/x`, `/runs/${id}/secret.txt`, '/runs/', '/runs'],
      ...[`/runs/${id}/samples/notes.png`, `/runs/${id}/samples/..\\secret.txt`],
      // A link to elsewhere, a folder, and what every object has.
      ...[`/runs/${id}/samples/step-0000007.png`, `/runs/${id}/samples/step-0000008.png`],
      ...[`/runs/${id}/constructor/x`, `/runs/${id}/__proto__/step-0001000.png`],
      ...['http://127.0.0.1/etc/passwd', 'file:///etc/passwd', `/runs/${id}/samples/step-1.png%00`],
      ...[`/runs/${id}/attention/step-9999999.json`, `/runs/ffffffffffff`],
    ];
    for (const path of paths) {
      const { status, body } = await ask(path);
      expect(`${path} ${status}`).toBe(`${path} 404`);
      expect(body.toString()).not.toContain(secret);
      expect(body.toString()).not.toContain('root:');
    }
  });

  test('reads no metrics or options through a link', async () => {
    const linked = join(folder, 'runs', 'linked');
    mkdirSync(linked);
    writeFileSync(join(folder, 'other.yaml'), `secret: ${secret}\n`);
    symlinkSync(join(folder, 'other.yaml'), join(linked, 'config.yaml'));
    symlinkSync(join(run, 'metrics.jsonl'), join(linked, 'metrics.jsonl'));
    symlinkSync(join(run, 'samples'), join(linked, 'samples'));
    const found = (await summaries()).find(({ name }) => name === 'linked');
    const { body } = await ask(`/runs/${found?.id ?? ''}`);
    expect(JSON.parse(body.toString())).toMatchObject({ config: [], state: { step: 0 } });
    expect((await ask(`/runs/${found?.id ?? ''}/samples/step-0001000.png`)).status).toBe(404);
    // Nor are runs found behind one.
    symlinkSync(run, join(folder, 'runs', 'behind'));
    expect((await summaries()).map(({ name }) => name)).toEqual(['a', 'deep/b', 'linked']);
    rmSync(linked, { recursive: true });
  });

  test('answers to this machine by its own names only, and to GET', async () => {
    const names = ['127.0.0.1', `localhost:${dashboard.port}`, 'localhost:1'];
    for (const host of names) {
      expect((await ask('/', { headers: { host } })).status).toBe(200);
    }
    for (const host of ['evil.example', 'evil.example:80', '127.0.0.1.evil.example']) {
      expect((await ask('/', { headers: { host } })).status).toBe(403);
    }
    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'HEAD', 'PATCH']) {
      const { status, headers } = await ask('/', { method });
      expect(`${method} ${status}`).toBe(`${method} 405`);
      expect(headers.allow).toBe('GET');
    }
  });

  test('says that a port is taken, and what is no folder', async () => {
    await expect(DashboardServer.open([folder], dashboard.port)).rejects.toThrow(
      `--port ${dashboard.port} is in use by another program`,
    );
    expect(() => checkFolders([join(folder, 'none')])).toThrow(/cannot read .*none/);
    expect(() => checkFolders([join(folder, 'secret.png')])).toThrow('is a file, not a folder');
    expect(findRuns([join(folder, 'none')])).toEqual([]);
  });

  test('a run that is named itself has its own name, and one that is named twice is one', () => {
    expect(findRuns([run]).map(({ name }) => name)).toEqual(['a']);
    const names = findRuns([join(folder, 'runs'), run]).map(({ name }) => name);
    expect(names.length).toBe(2);
  });
});
