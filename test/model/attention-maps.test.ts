// Where attention looks, for viewers: coarse maps against float64 loops, and the files of a run.
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { decodePng, toByte } from '../../src/io/png.ts';
import { attentionOf } from '../../src/nn/attention-kinds.ts';
import type { AttentionKind } from '../../src/nn/attention-kinds.ts';
import { SelfAttention } from '../../src/nn/attention.ts';
import { attentionBlocks, coarseMaps, looking } from '../../src/train/attention/look.ts';
import { listRecords, writeAttention } from '../../src/train/attention/record.ts';
import type { AttentionRecord, RecordSource } from '../../src/train/attention/record.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { createGan } from '../../src/train/gan.ts';
import { latents } from '../../src/train/latents.ts';
import { gridLabels } from '../../src/train/sampler.ts';
import { HostRng } from '../../src/util/philox.ts';
import { f32, f64, softmaxAllowance } from '../reference/naive.ts';
import { matmul } from '../reference/matmul.ts';
import { softmax } from '../reference/softmax.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { eagerly, leaf, randomInput } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const rng = new HostRng(1);
const folder = mkdtempSync(join(tmpdir(), 'wgsagan-looking-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** Means over squares of a map [N, heads, Q, K] of queries and keys in rows of so many. */
function squares(
  map: ArrayLike<number>,
  { planes, q, k, by }: { planes: number; q: number[]; k: number[]; by: number[] },
): Float64Array {
  const [[QH = 1, QW = 1], [KH = 1, KW = 1], [bq = 1, bk = 1]] = [q, k, by];
  const rows = (QH / bq) * (QW / bq);
  const out = new Float64Array((planes * rows * KH * KW) / bk ** 2);
  for (let p = 0; p < planes; p++) {
    for (let i = 0; i < QH * QW; i++) {
      for (let j = 0; j < KH * KW; j++) {
        const row = Math.floor(Math.floor(i / QW) / bq) * (QW / bq) + Math.floor((i % QW) / bq);
        const col = Math.floor(Math.floor(j / KW) / bk) * (KW / bk) + Math.floor((j % KW) / bk);
        const to = (p * rows + row) * ((KH * KW) / bk ** 2) + col;
        out[to]! += map[(p * QH * QW + i) * KH * KW + j]! / (bq * bk) ** 2;
      }
    }
  }
  return out;
}

describe('coarse maps', () => {
  const [N, C, H, W] = [2, 16, 8, 12];
  const x = leaf(tape, randomInput([N, C, H, W], 3));
  const labels = tensor(tape, Uint32Array.of(2, 0), [N]);
  const resolution = { mostQueries: 6, mostKeys: 3 };
  const options = { rng, classes: 3 };

  test('of plain attention are means of softmax(QᵀK) in float64', async () => {
    const block = new SelfAttention(tape, C, options);
    const [q, k] = await eagerly(gpu, () => {
      const made = block.project(x);
      return [made.q, made.k];
    });
    let sizes: unknown;
    const [maps] = await eagerly(gpu, () => {
      const made = coarseMaps({ name: '', block, x, labels: undefined }, resolution);
      sizes = [made.queries, made.keys];
      return [made.maps];
    });
    expect(sizes).toEqual([
      [4, 6],
      [2, 3],
    ]);
    const D = 2;
    const positions = H * W;
    const reference = (round: typeof f64) => {
      const parts = Array.from({ length: N }, (_u, n) => {
        const part = (t: Float32Array) => t.subarray(n * D * positions, (n + 1) * D * positions);
        const sides = { a: part(q!.data as Float32Array), b: part(k!.data as Float32Array) };
        const scores = matmul(
          { ...sides, M: positions, N: positions, K: D, transA: true, transB: false },
          round,
        );
        return [...softmax({ x: scores, rows: positions, cols: positions }, round)];
      });
      return squares(parts.flat(), { planes: N, q: [H, W], k: [H, W], by: [2, 4] });
    };
    const exact = reference(f64);
    const naive = reference(f32);
    const error = Math.max(...exact.map((v, i) => Math.abs(v - naive[i]!)));
    expectClose(
      maps!.data,
      exact,
      { abs: 2 * error + softmaxAllowance(positions) / positions },
      'maps',
    );
    expect(maps!.shape).toEqual([N, 1, 24, 6]);
  });

  const [h, w] = [4, 6];
  const small = leaf(tape, randomInput([N, C, h, w], 4));
  const halves = { mostQueries: 3, mostKeys: 3 };
  test.each(['paper', 'multihead', 'topk', 'linear', 'hybrid', 'class'] as const)(
    'of %s are means of the maps of its positions one by one',
    async (attention) => {
      const [block] = attentionOf({ attention, heads: 4, topk: 3 }, tape, C, options);
      const [maps, ...single] = await eagerly(gpu, () => [
        coarseMaps({ name: '', block: block!, x: small, labels }, halves).maps,
        ...Array.from({ length: h * w }, (_u, i) =>
          block!.map(small, [Math.floor(i / w), i % w], labels),
        ),
      ]);
      const [, heads = 1, KH = 1, KW = 1] = single[0]!.shape;
      expect(heads).toBe(block!.heads);
      const planes = N * heads;
      const whole = new Float64Array(planes * h * w * KH * KW);
      single.forEach(({ data }, i) => {
        for (let p = 0; p < planes; p++) {
          whole.set(data.subarray(p * KH * KW, (p + 1) * KH * KW), (p * h * w + i) * KH * KW);
        }
      });
      const bk = attention === 'paper' ? 1 : 2;
      const exact = squares(whole, { planes, q: [h, w], k: [KH, KW], by: [2, bk] });
      expectClose(maps!.data, exact, { abs: 1e-6, rel: 1e-5 }, 'maps');
    },
  );

  test('of a gate are its gate, from one query', async () => {
    const [block] = attentionOf({ attention: 'gate' }, tape, C, options);
    const [coarse, gate] = await eagerly(gpu, () => [
      coarseMaps({ name: '', block: block!, x, labels }, { mostQueries: 6, mostKeys: 32 }).maps,
      block!.map(x, [5, 5]),
    ]);
    expect(coarse!.shape).toEqual([N, 1, 1, H * W]);
    expect([...coarse!.data]).toEqual([...gate!.data]);
  });
});

describe('the files of a run', () => {
  const base = { data: 'none', preset: 'sagan-32-tiny', imageSize: 16, width: 4, latentSize: 6 };
  const sourceOf = (options: object, step = 5): RecordSource => {
    const config = resolveConfig({ ...base, ...options });
    const { average } = createGan(tape, config);
    const grid = { n: 64, columns: 8 };
    const labels = config.classes === 0 ? undefined : gridLabels(64, 8, config.classes);
    return { average, config, grid, labels, step };
  };
  const read = (path: string | undefined) =>
    JSON.parse(readFileSync(path ?? '', 'utf8')) as AttentionRecord;
  const floats = (text: string) => [...Buffer.from(text, 'base64')];

  test('hold the run’s first samples and, row by row, where each of its heads looks', async () => {
    const source = sourceOf({ attention: 'multihead', heads: 2, attentionG: [4, 8] });
    const run = join(folder, 'run');
    const path = await writeAttention(run, source);
    expect(path).toBe(join(run, 'attention', 'step-0000005.json'));
    const record = read(path);
    expect(record).toMatchObject({
      step: 5,
      imageSize: 16,
      samples: 8,
      indices: [0, 1, 2, 3, 4, 5, 6, 7],
    });
    expect(record.layers).toMatchObject([
      { name: 'main.3', heads: 2, queries: [4, 4], keys: [4, 4] },
      { name: 'main.7', heads: 2, queries: [8, 8], keys: [8, 8] },
    ]);
    const { average } = source;
    expect([...attentionBlocks(average).keys()]).toEqual(['main.3', 'main.7']);
    const z = tensor(tape, latents(0, 8, 6), [8, 6]);
    const [images, map] = await eagerly(gpu, () => {
      average.eval();
      const maps = new Map<string, ReturnType<typeof average.forward>>();
      const made = looking(
        average,
        () => average.forward(z),
        ({ name, block, x }) => {
          maps.set(name, block.map(x, [2, 5 % x.shape[3]!]));
        },
      );
      return [made, maps.get('main.7')!];
    });
    const picture = decodePng(Buffer.from(record.images[3]!, 'base64'));
    expect(picture).toMatchObject({ width: 16, height: 16, channels: 3 });
    const third = images!.data.subarray(3 * 768, 4 * 768);
    const near = [...picture.pixels].every((byte, i) => {
      const value = third[(i % 3) * 256 + Math.floor(i / 3)]!;
      return Math.abs(byte - toByte(value)) <= 1;
    });
    expect(near).toBe(true);
    // sample 3, head 1, query 2·8 + 5
    const row = floats(record.layers[1]!.maps)
      .slice(((3 * 2 + 1) * 64 + 21) * 64)
      .slice(0, 64);
    const weights = [...map!.data.subarray((3 * 2 + 1) * 64, (3 * 2 + 2) * 64)];
    const most = Math.max(...weights);
    expect(Math.max(...row)).toBe(255);
    expect(row.every((byte, i) => Math.abs(byte - (255 * weights[i]!) / most) <= 1)).toBe(true);
    for (const { heads, queries, keys, maps } of record.layers) {
      expect(floats(maps)).toHaveLength(8 * heads * queries[0] * queries[1] * keys[0] * keys[1]);
    }
  });

  test('show a sample of each row where a row is a class', async () => {
    const resnet = { preset: 'sagan-resnet-32', imageSize: 32, conditional: true, classes: 3 };
    const source = sourceOf({ ...resnet, attention: 'class', attentionAt: [8] });
    expect(read(await writeAttention(join(folder, 'classes'), source)).indices).toEqual([
      0, 8, 16, 24, 32, 40, 48, 56,
    ]);
  });

  test.each<[string, object]>([
    ['no attention', { attention: 'none' as AttentionKind }],
    ['clips', { preset: 'video-32-tiny', imageSize: 16, frames: 2, attentionAt: [4] }],
  ])('are not there for %s', async (_name, options) => {
    const run = join(folder, 'nothing');
    expect(await writeAttention(run, sourceOf(options))).toBeUndefined();
  });

  test('are the newest twenty', async () => {
    const run = join(folder, 'many');
    const attention = join(run, 'attention');
    mkdirSync(attention, { recursive: true });
    const names = Array.from(
      { length: 23 },
      (_u, i) => `step-${String(10 * i).padStart(7, '0')}.json`,
    );
    for (const name of names.slice(0, -1)) writeFileSync(join(attention, name), '{}');
    writeFileSync(join(attention, 'mine.json'), '{}');
    await writeAttention(run, sourceOf({ attentionG: [4], width: 2 }, 220));
    expect(listRecords(run)).toEqual(names.slice(-20));
    expect(readdirSync(attention).sort()).toEqual(['mine.json', ...names.slice(-20)]);
  });

  test('cost no memory between two of them', async () => {
    const source = sourceOf({ attentionG: [4], width: 2 });
    const before = gpu.pool.stats().liveBytes;
    await writeAttention(join(folder, 'memory'), source);
    expect(gpu.pool.stats().liveBytes).toBe(before);
  });
});

test('looking at attention wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
