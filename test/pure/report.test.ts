// What a report is made of, from run folders without a GPU.
import {
  appendFileSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, test } from 'vitest';
import { fewSamples, parseAttention, AttentionReader } from '../../src/report/attention.ts';
import { JsonLines } from '../../src/report/lines.ts';
import { Embedder, picturesOf } from '../../src/report/pictures.ts';
import { reportHtml, scriptOf } from '../../src/report/page.ts';
import { RunReader } from '../../src/report/reader.ts';
import type { RunData } from '../../src/report/data.ts';
import { ReportWriter } from '../../src/report/report.ts';
import { Curves, alarmsOf, evaluationsOf, seriesOf } from '../../src/report/series.ts';
import { spread, thinned } from '../../src/report/thin.ts';
import { together } from '../../src/train/observers.ts';
import { writeRun } from '../support/runs.ts';

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-report-'));
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

describe('curves', () => {
  test('of any number of lines so many points are held, with the peak and the dip of a single step', () => {
    const curves = new Curves();
    for (let step = 1; step <= 30_000; step++) {
      const a = step === 777 ? 5 : step === 15_001 ? -5 : Math.sin(step / 900);
      curves.add({ step, a, seconds: step / 10 });
    }
    const { steps, values } = curves.series()[0]!;
    expect(steps.length).toBeGreaterThan(500);
    expect(steps.length).toBeLessThanOrEqual(1000);
    expect([steps[0], steps.at(-1)]).toEqual([1, 30_000]);
    expect(steps.every((step, i) => i === 0 || step > steps[i - 1]!)).toBe(true);
    expect([values[steps.indexOf(777)], values[steps.indexOf(15_001)]]).toEqual([5, -5]);
    // Everywhere about as dense.
    for (let tenth = 0; tenth < 10; tenth++) {
      const inside = steps.filter((step) => Math.ceil(step / 3000) === tenth + 1);
      expect(inside.length).toBeGreaterThan(25);
    }
    expect([curves.last('step'), curves.last('seconds')]).toEqual([30_000, 3000]);
  });

  test('a damaged file of lines takes no more room, and no more time, than a whole one', () => {
    const curves = new Curves();
    curves.add({ step: -1e308, loss: 1 });
    for (let i = 0; i < 5000; i++) curves.add({ step: 1e308 - i * 1e295, loss: i });
    for (let i = 0; i < 5000; i++) curves.add({ step: 1, [`key${i}`]: i });
    expect(curves.series().length).toBeLessThanOrEqual(1000);
  });

  test('a thinned one keeps its ends, and the peak and the dip of a single step', () => {
    const steps = Array.from({ length: 20_000 }, (_u, i) => 10 * i);
    const values = steps.map((_s, i) => (i === 777 ? 9 : i === 15_001 ? -9 : Math.sin(i)));
    const thin = thinned({ key: 'a', steps, values }, 100);
    expect(thin.steps.length).toBeLessThanOrEqual(100);
    expect([thin.steps[0], thin.steps.at(-1)]).toEqual([0, 199_990]);
    expect(thin.steps).toEqual([...thin.steps].sort((a, b) => a - b));
    expect(new Set(thin.steps).size).toBe(thin.steps.length);
    expect(thin.values[thin.steps.indexOf(7770)]).toBe(9);
    expect(thin.values[thin.steps.indexOf(150_010)]).toBe(-9);
  });

  test('a short one stays, to six digits; gaps stay gaps', () => {
    const series = { key: 'a', steps: [1, 2, 3], values: [1 / 3, null, 2e9 / 3] };
    expect(thinned(series, 4).values).toEqual([0.333333, null, 666_667_000]);
    const gaps = { key: 'a', steps: [0, 1, 2, 3, 4, 5], values: [1, null, null, null, null, 2] };
    expect(thinned(gaps, 4).values).toEqual([1, null, 2]);
  });

  test('one of lines that were taken back and written again has the later values, in order', () => {
    const lines = [{ step: 10, a: 1 }, { step: 20, a: 2, b: 5 }, { step: 10, a: 3 }, { a: 9 }];
    expect(seriesOf([...lines, { step: 30, a: null, text: 'x' }])).toEqual([
      { key: 'a', steps: [10, 20, 30], values: [3, 2, null] },
      { key: 'b', steps: [20], values: [5] },
    ]);
  });

  test('evaluations of other extractors are other curves; a broken alarm is none', () => {
    const lines = [
      { step: 1, extractor: 'own', n: 8, fd: 3, kidStd: 1 },
      { step: 1, extractor: 'inception', n: 8, fid: 4 },
    ];
    expect(evaluationsOf(lines).map(({ key }) => key)).toEqual(['fd/own', 'fid/inception']);
    const usual = { step: 1, extractor: 'own', fd: 2, generator: 'ema', weights: 'abc' };
    const others = [usual, { ...usual, generator: 'last' }, { ...usual, step: 2 }];
    expect(evaluationsOf(others).map(({ key, steps }) => [key, steps])).toEqual([
      ['fd/own', [1, 2]],
      ['fd/own, generator last', [1]],
    ]);
    expect(alarmsOf([{ step: 1, text: 'x' }, { step: 2 }, { text: 'y' }])).toEqual([
      { step: 1, cause: '', text: 'x' },
    ]);
  });
});

describe('lines of a growing file', () => {
  const path = join(folder, 'lines.jsonl');
  const steps = (lines: JsonLines) => lines.read().map((line) => line['step']);

  test('are read as they come, a torn one only when it is whole, and anew from another file', () => {
    const lines = new JsonLines(path);
    expect(steps(lines)).toEqual([]);
    writeFileSync(path, '{"step":1}\nnonsense\n[2]\n{"st');
    expect(steps(lines)).toEqual([1]);
    appendFileSync(path, 'ep":2}\n{"step":3}\n');
    expect(steps(lines)).toEqual([1, 2, 3]);
    writeFileSync(`${path}.new`, '{"step":1}\n{"step":9}\n{"step":10}\n{"step":11}\n{"step":12}\n');
    renameSync(`${path}.new`, path);
    expect(steps(lines)).toEqual([1, 9, 10, 11, 12]);
    writeFileSync(path, '{"step":5}\n');
    expect(steps(lines)).toEqual([5]);
    rmSync(path);
    expect(steps(lines)).toEqual([]);
  });

  test('may be longer than what is read at once', () => {
    const long = 'x'.repeat(700_000);
    const text = [1, 2, 3].map((step) => `${JSON.stringify({ step, long })}\n`);
    writeFileSync(path, text.join(''));
    expect(steps(new JsonLines(path))).toEqual([1, 2, 3]);
  });
});

describe('pictures', () => {
  test('that are chosen are the first, the last and evenly between, and stay chosen as more come', () => {
    expect(spread(0, 4)).toEqual([]);
    expect(spread(1, 4)).toEqual([0]);
    expect(spread(4, 4)).toEqual([0, 1, 2, 3]);
    expect(spread(5, 4)).toEqual([0, 2, 4]);
    for (let n = 1; n < 300; n++) {
      const places = spread(n, 100);
      expect(places.length).toBeLessThanOrEqual(100);
      expect(places.length).toBeGreaterThan(Math.min(n, 100) / 2);
      expect([places[0], places.at(-1)]).toEqual([0, n - 1]);
      const before = new Set(spread(n - 1, 100));
      const fresh = places.filter((place) => !before.has(place));
      expect(fresh).toEqual([n - 1]);
    }
  });

  test('of a run are told apart by kind, and one that is broken is named', async () => {
    const run = writeRun(folder, 'kinds', { clips: true, grids: 3 });
    writeFileSync(join(run, 'samples', 'reconstructions-0000200.png'), 'no picture');
    writeFileSync(join(run, 'samples', 'other.png'), '');
    const tracks = picturesOf(run);
    expect(tracks.map(({ kind, files }) => `${kind} ${files.length}`)).toEqual([
      'samples 3',
      'clips 3',
      'reconstructions 1',
    ]);
    const broken: string[] = [];
    const embedder = new Embedder();
    const made = [];
    for (const track of tracks) made.push(await embedder.track(run, track, broken));
    expect(broken).toEqual(['reconstructions-0000200.png']);
    expect(made.map(({ pictures }) => pictures.length)).toEqual([3, 3, 0]);
    const { name } = tracks[0]!.files[1]!;
    const { src } = made[0]!.pictures[1]!;
    const bytes = readFileSync(join(run, 'samples', name));
    expect(src).toBe(`data:image/png;base64,${bytes.toString('base64')}`);
    // One that goes away before the page is written leaves its place empty.
    rmSync(join(run, 'samples', name));
    expect(made[0]!.pictures.map((one) => one.src === 'data:,')).toEqual([false, true, false]);
  });

  test('that are large are made WebPs', async () => {
    const run = writeRun(folder, 'large', { grids: 1 });
    const noise = Uint8Array.from({ length: 3 * 256 * 256 }, (_u, i) => (i * i * 7919) >> 8);
    const raw = { width: 256, height: 256, channels: 3 } as const;
    const png = await sharp(noise, { raw }).png().toBuffer();
    expect(png.length).toBeGreaterThan(100_000);
    writeFileSync(join(run, 'samples', 'step-0000900.png'), png);
    const track = await new Embedder().track(run, picturesOf(run)[0]!, []);
    expect(track.pictures.map(({ src }) => src.slice(0, 15))).toEqual([
      'data:image/png;',
      'data:image/webp',
    ]);
  });
});

describe('attention maps', () => {
  const run = writeRun(folder, 'maps', { attention: true });

  test('are the newest of a run, as many samples as have room', () => {
    const attention = new AttentionReader().read(run);
    expect(attention).toMatchObject({ step: 800, samples: 3 });
    const each = 2 * 64 * 16 + 256 * 64;
    const two = fewSamples(attention!, 2 * each + 1);
    expect(two).toMatchObject({ samples: 2, images: attention!.images.slice(0, 2) });
    expect(parseAttention(JSON.stringify(two))).toEqual(two);
    expect(fewSamples(attention!, 1).samples).toBe(1);
  });

  test('of another size than they say, or of no kind, are refused', () => {
    const attention = new AttentionReader().read(run)!;
    const short = [{ ...attention.layers[0]!, maps: 'AAAA' }];
    expect(() => parseAttention(JSON.stringify({ ...attention, layers: short }))).toThrow(
      'main.6 has 3 bytes instead of 6144',
    );
    expect(() => parseAttention(JSON.stringify({ ...attention, samples: 2 }))).toThrow('3 images');
    expect(() => parseAttention('{"step":1')).toThrow();
    const script = { ...attention, images: ['"><script>', '', ''] };
    expect(() => parseAttention(JSON.stringify(script))).toThrow();
  });
});

describe('the page', () => {
  test('of a long run stays one of some megabytes', () => {
    const run = writeRun(folder, 'long', { lines: 8000, grids: 0 });
    const { state, ...numbers } = new RunReader(run).read();
    const data = { ...numbers, state, tracks: [], attention: null };
    expect(statSync(join(run, 'metrics.jsonl')).size).toBeGreaterThan(4e6);
    expect([...reportHtml(data)].join('').length).toBeLessThan(1e6);
  });

  test('is written in chunks to the byte as it is, again and again', async () => {
    const run = writeRun(folder, 'chunks', { attention: true, grids: 2 });
    const name = 'wide.png';
    const machine = { note: 'ü€😀'.repeat(150_001), odd: 'x' };
    writeFileSync(join(run, 'machine.json'), JSON.stringify(machine));
    const writer = new ReportWriter(run);
    const texts = [];
    for (let i = 0; i < 2; i++) {
      await writer.write(join(folder, name));
      const html = readFileSync(join(folder, name), 'utf8');
      const [, json = ''] = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(
        html,
      )!;
      const data = JSON.parse(json) as RunData;
      expect(data.machine).toEqual(Object.entries(machine));
      expect(data.tracks[0]!.pictures.every(({ src }) => src.length > 100)).toBe(true);
      texts.push(html.replace(data.made, ''));
    }
    expect(texts[1]).toBe(texts[0]);
    expect(texts[0]).toMatch(/<\/html>\n$/);
    // What is in the folder now is what the next one shows.
    writeFileSync(join(run, 'machine.json'), '{"cpu":"other"}');
    await writer.write(join(folder, name));
    expect(readFileSync(join(folder, name), 'utf8')).toContain('["cpu","other"]');
  });

  test('keeps the notice of uPlot, loads nothing, and is one script of modules with no import left', () => {
    const script = scriptOf('report');
    expect(script).toContain('MIT License');
    expect(script).toContain('Leon Sorokin');
    expect(script).not.toMatch(/^\s*(import|export) /m);
    const data: RunData = {
      ...{ name: 'x', made: '', alarms: [], attention: null, broken: ['</script>\u2028"'] },
      series: [{ key: 'a<b', steps: [1, 2], values: [0.5, null] }],
      tracks: [{ kind: 'samples', all: 1, pictures: [{ step: 1, src: 'data:,' }] }],
      ...{ config: [['a', '1']], machine: [] },
      state: { step: 0, steps: null, seconds: 0, status: 'written' },
    };
    const html = [...reportHtml(data)].join('');
    const [, json = ''] = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(html)!;
    expect(JSON.parse(json)).toEqual(data);
    expect(json).not.toContain('<');
    expect(html).toMatch(/default-src 'none'; img-src data:; .*script-src 'sha256-[\w+/]+=*'/);
    expect(html).not.toContain('unsafe');
    expect(html).not.toMatch(/(src|href)="(?!data:)/);
  });
});

test('observers are told one after the other, and waited for', async () => {
  const told: string[] = [];
  const slow = {
    onSamples: async (path: string) => {
      await Promise.resolve();
      told.push(`slow ${path}`);
    },
  };
  const quick = { onSamples: (path: string) => void told.push(`quick ${path}`) };
  await together(slow, {}, quick).onSamples('a', 1);
  expect(told).toEqual(['slow a', 'quick a']);
});
