// What becomes of a profile and of a program: groups, tables, the roofline, the trace, the picture of the memory.
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import type { Explanation } from '../../src/train/inspect/explain.ts';
import { findEntry } from '../../src/train/inspect/explain.ts';
import { entryText, explanationText } from '../../src/train/inspect/explain-text.ts';
import { groupLaunches } from '../../src/train/inspect/groups.ts';
import { lifetimesSvg } from '../../src/train/inspect/lifetimes.ts';
import type { LaunchProfile, StepProfile } from '../../src/train/inspect/profile.ts';
import { layOut, rooflineSvg } from '../../src/train/inspect/roofline.ts';
import { meet } from '../../src/train/inspect/svg.ts';
import { profileHead, profileTable } from '../../src/train/inspect/tables.ts';
import { chromeTrace } from '../../src/train/inspect/trace.ts';
import { median } from '../../src/util/statistics.ts';
import { textTable } from '../../src/util/table.ts';

const peaks = { fmaGflops: 100, copyGBs: 10, clock: 'gpu' } as const;

function launch(kernel: string, made: Partial<LaunchProfile>): Omit<LaunchProfile, 'index'> {
  const place = { pass: 'D forward', layer: 'discriminator.main.0' };
  const none = { tile: {}, dims: {}, grid: [1, 1, 1], ms: 1, flops: 0, bytes: 0 } as const;
  const unit = 'fma';
  return { kernel, ...place, ...none, unit, ...made };
}

function profileOf(launches: readonly Omit<LaunchProfile, 'index'>[]): StepProfile {
  const driver = { kind: 'lavapipe', version: '25.0', vectorWidth: 128 } as const;
  const toggles = { enabled: [], disabled: ['timestamp_quantization'] };
  return {
    adapter: { name: 'a <quick> "GPU" & more', kind: 'software', driver, toggles },
    ...{ preset: 'sagan-32-tiny', batch: 16, replays: 3, clock: 'gpu', peaks },
    ...{ stepMs: 8, encodeUs: 2.5, plannedBytes: 2 ** 22, unplannedBytes: 2 ** 24 },
    residentBytes: 2 ** 20,
    launches: launches.map((one, index) => ({ index, ...one })),
  };
}

/** 10 ms: a product at half of the arithmetic's peak, a sum at half of the memory's, a copy. */
const small = profileOf([
  launch('matmul/1_naive', { ms: 4, flops: 2e8, bytes: 1e6, tile: { WX: 8 }, dims: { M: 4 } }),
  launch('pointwise/binary', { ms: 2, flops: 1e6, bytes: 1e7, layer: 'loss' }),
  launch('matmul/1_naive', {
    ...{ ms: 2, flops: 1e8, bytes: 1e6, tile: { WX: 8 }, dims: { M: 8 } },
    pass: 'D backward',
  }),
  launch('layout/strided', { ms: 2, bytes: 1e6, pass: 'D backward', layer: '' }),
]);

describe('numbers', () => {
  test('the median is the middle one, or between the two in the middle', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([7])).toBe(7);
    expect(median([])).toBeNaN();
  });

  test('a table has text to the left, numbers to the right and no space at an end', () => {
    const columns = [{ title: 'n' }, { title: 'name', text: true }, { title: 'x' }];
    expect(
      textTable(columns, [
        ['10', 'a', '1'],
        ['9', 'bcdef', ''],
      ]),
    ).toBe([' n  name   x', '10  a      1', ' 9  bcdef'].join('\n'));
  });
});

describe('groups', () => {
  test('by kernel sum what is theirs, the longest first', () => {
    const groups = groupLaunches(small.launches, 'kernel', peaks);
    expect(groups.map((g) => g.name)).toEqual([
      ...['matmul/1_naive', 'pointwise/binary', 'layout/strided'],
    ]);
    const [product, sum, copy] = groups;
    expect(product).toMatchObject({ ms: 6, share: 0.6, flops: 3e8, bytes: 2e6, roof: 'compute' });
    expect(product!.launches.map((l) => l.index)).toEqual([0, 2]);
    expect(product!.gflops).toBeCloseTo(50, 9);
    // 3e8 flops take 3 ms at the peak.
    expect(product!.ofPeak).toBeCloseTo(0.5, 9);
    expect(sum).toMatchObject({ roof: 'memory', share: 0.2 });
    expect(sum!.gbs).toBeCloseTo(5, 9);
    expect(sum!.ofPeak).toBeCloseTo(0.5, 9);
    expect(copy).toMatchObject({ gflops: 0, roof: 'memory' });
    expect(copy!.ofPeak).toBeCloseTo(0.05, 9);
  });

  test('by layer, pass and launch hold every launch once; passes and launches in their order', () => {
    const names = (by: 'layer' | 'pass' | 'launch') => {
      const groups = groupLaunches(small.launches, by, peaks);
      expect(groups.reduce((n, g) => n + g.share, 0)).toBeCloseTo(1, 12);
      const indices = groups.flatMap((g) => g.launches.map((l) => l.index));
      expect([...indices].sort()).toEqual([0, 1, 2, 3]);
      return groups.map((g) => g.name);
    };
    expect(names('layer')).toEqual(['discriminator.main.0', 'loss', '(no layer)']);
    expect(names('pass')).toEqual(['D forward', 'D backward']);
    expect(names('launch')).toEqual(['0', '1', '2', '3']);
  });

  test('of tensor cores are held against the peak of matrices', () => {
    const made = launch('matmul/6', { ms: 1, flops: 4e8, bytes: 1e3, unit: 'matrix' });
    const { launches } = profileOf([made]);
    const ofPeak = (more: object) =>
      groupLaunches(launches, 'kernel', { ...peaks, ...more })[0]!.ofPeak;
    expect(ofPeak({ matrixGflops: 1600 })).toBeCloseTo(0.25, 9);
    expect(ofPeak({})).toBeCloseTo(4, 9);
  });

  test('of launches that no clock saw have no rates, and nothing is NaN', () => {
    const still = profileOf([launch('a/b', { ms: 0, flops: 5, bytes: 5 })]);
    const [group] = groupLaunches(still.launches, 'kernel', peaks);
    expect(group).toMatchObject({ ms: 0, share: 0, gflops: 0, gbs: 0, ofPeak: 0 });
    for (const by of ['kernel', 'launch'] as const) {
      expect(profileTable(still, by)).not.toMatch(/NaN|Infinity|undefined/);
    }
  });
});

describe('tables', () => {
  test('by kernel tell time, rates, roof and shapes', () => {
    const [head, ...rows] = profileTable(small, 'kernel').split('\n');
    expect(head!.trim().split(/ {2,}/)).toEqual([
      ...['share', 'ms', 'GFLOP/s', 'GB/s', '% of peak', 'roof', 'calls', 'kernel'],
      'tile; sizes; grid',
    ]);
    expect(rows.map((row) => row.trim().split(/ {2,}/))).toEqual([
      [
        '60.0 %',
        '6.000',
        '50.0',
        '0.33',
        '50.0',
        'compute',
        '2',
        'matmul/1_naive',
        'WX=8; 2 sizes; 1×1×1',
      ],
      ['20.0 %', '2.000', '0.50', '5.00', '50.0', 'memory', '1', 'pointwise/binary', '1×1×1'],
      ['20.0 %', '2.000', '–', '0.50', '5.0', 'memory', '1', 'layout/strided', '1×1×1'],
    ]);
  });

  test('by launch tell where each belongs', () => {
    const rows = profileTable(small, 'launch').split('\n');
    expect(rows).toHaveLength(5);
    expect(rows[2]).toMatch(/^ +1 .* D forward +loss +pointwise\/binary +1×1×1$/);
  });

  test('stand below what is true of the whole step', () => {
    const head = profileHead(small);
    expect(head).toContain('off: timestamp_quantization');
    expect(head).toContain('100 GFLOP/s of f32 multiply-adds, 10.0 GB/s of copies');
    expect(head).toContain('batch 16: 4 launches, 0.30 GFLOP, 8.00 ms in one pass = 37.6 GFLOP/s');
    expect(head).toContain('10.0 ms one by one on the GPU clock, median of 3');
    expect(head).toContain('2.50 µs a launch, 0.01 ms a step');
    expect(head).toContain('4 MiB planned (16 MiB unplanned) + 1 MiB resident');
  });
});

/** Throws unless the SVG is well-formed and has something in it. */
async function pixelsOf(svg: string): Promise<number> {
  const { data } = await sharp(Buffer.from(svg)).raw().toBuffer({ resolveWithObject: true });
  return new Set(data).size;
}

describe('the roofline', () => {
  test('is a well-formed picture that names its adapter', async () => {
    const svg = rooflineSvg(small);
    expect(await pixelsOf(svg)).toBeGreaterThan(10);
    await expect(pixelsOf(svg.replace('</svg>', ''))).rejects.toThrow();
    expect(svg).toContain('a &lt;quick> &quot;GPU&quot; &amp; more');
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    expect(svg.match(/<circle class="dot"[^>]*><title>/g)).toHaveLength(2);
    expect(svg).toContain('1 kernels without arithmetic or time (20.0 % of the step) are left out');
  });

  test('puts a dot where its rate and its intensity are, its area by its share', () => {
    const { dots, scale } = layOut(small);
    expect(dots.map((d) => d.group.name)).toEqual(['matmul/1_naive', 'pointwise/binary']);
    const [product, sum] = dots;
    expect(product!.x).toBeCloseTo(scale.toX(150), 6);
    expect(product!.y).toBeCloseTo(scale.toY(50), 6);
    expect(sum!.x).toBeCloseTo(scale.toX(0.1), 6);
    expect((product!.r / sum!.r) ** 2).toBeCloseTo(3, 6);
    // A dot at half of a peak stands under the roof, by the same factor in both.
    const height = scale.toY(1) - scale.toY(2);
    expect(product!.y - scale.toY(peaks.fmaGflops)).toBeCloseTo(height, 6);
    expect(sum!.y - scale.toY(0.1 * peaks.copyGBs)).toBeCloseTo(height, 6);
  });

  test('labels the largest kernels, and no label meets another, a dot or an edge', () => {
    const many = profileOf(
      Array.from({ length: 60 }, (_u, i) =>
        launch(`family${i % 7}/${i}_a_kernel_with_a_name`, {
          ...{ ms: 1 + (i % 5), flops: 1e6 * (1 + (i % 9)), bytes: 1e6 * (1 + (i % 4)) },
        }),
      ),
    );
    const { dots } = layOut(many);
    expect(dots).toHaveLength(60);
    const labels = dots.flatMap(({ label }) => (label === undefined ? [] : [label]));
    expect(labels.length).toBeGreaterThan(3);
    labels.forEach((a, i) => {
      expect(labels.slice(i + 1).some((b) => meet(a, b))).toBe(false);
      const box = ({ x, y, r }: (typeof dots)[0]) => {
        return { x: x - r, y: y - r, width: 2 * r, height: 2 * r };
      };
      expect(dots.some((dot) => meet(a, box(dot)))).toBe(false);
      expect(a.x).toBeGreaterThanOrEqual(0);
      expect(a.x + a.width).toBeLessThanOrEqual(960);
    });
  });

  test('has a dashed roof for each unit that is faster than f32', async () => {
    const more = { ...peaks, f16Gflops: 200, matrixGflops: 1600 };
    const svg = rooflineSvg({ ...small, peaks: more });
    expect(svg.match(/<path class="line (roof|higher)"/g)).toHaveLength(3);
    expect(svg).toContain('200 GFLOP/s of f16 multiply-adds, 1600 GFLOP/s of f16 matrices, ');
    expect(await pixelsOf(svg)).toBeGreaterThan(10);
    const slower = rooflineSvg({ ...small, peaks: { ...peaks, f16Gflops: 2 } });
    expect(slower.match(/<path class="line (roof|higher)"/g)).toHaveLength(1);
  });

  test('of nothing that computes is still a picture', async () => {
    const svg = rooflineSvg(profileOf([launch('layout/strided', { bytes: 10 })]));
    expect(svg).not.toMatch(/NaN|Infinity/);
    expect(await pixelsOf(svg)).toBeGreaterThan(1);
  });
});

describe('the trace', () => {
  const { traceEvents } = chromeTrace(small);
  const onTrack = (tid: number) => traceEvents.filter((e) => e.ph === 'X' && e.tid === tid);

  test('has a track of passes, one of layers and one of launches, each as long as the step', () => {
    const names = traceEvents.filter((e) => e.name === 'thread_name').map((e) => e.args['name']);
    expect(names).toEqual(['passes', 'layers', 'launches']);
    for (const tid of [1, 2, 3]) {
      let end = 0;
      for (const { ts, dur } of onTrack(tid)) {
        expect(ts).toBeCloseTo(end, 9);
        end = ts! + dur!;
      }
      expect(end).toBeCloseTo(10_000, 6);
    }
  });

  test('names launches by kernel, and neighbours of one pass or layer together', () => {
    expect(onTrack(1).map((e) => [e.name, e.dur])).toEqual([
      ['D forward', 6000],
      ['D backward', 4000],
    ]);
    expect(onTrack(2).map((e) => e.name)).toEqual([
      ...['discriminator.main.0', 'loss', 'discriminator.main.0', ''],
    ]);
    expect(onTrack(3).map((e) => e.name)).toEqual(small.launches.map((l) => l.kernel));
    expect(onTrack(3)[0]!.args).toMatchObject({
      ...{ pass: 'D forward', layer: 'discriminator.main.0', kernel: 'matmul/1_naive' },
      ...{ tile: { WX: 8 }, dims: { M: 4 }, roof: 'compute' },
    });
  });

  test('survives JSON', () => {
    expect(JSON.parse(JSON.stringify(chromeTrace(small)))).toEqual(chromeTrace(small));
  });
});

const explanation: Explanation = {
  ...{ adapter: 'an adapter', preset: 'sagan-32-tiny', batch: 2 },
  entries: [
    {
      ...{
        index: 0,
        pass: 'D forward',
        layer: 'loss',
        kernel: 'pointwise/binary',
        grid: [1, 2, 1],
      },
      ...{ tile: { OP: 'ADD' }, immediates: { n: 4, param: 0.1 }, flops: 4, bytes: 48 },
      buffers: [
        { binding: 'a', access: 'read', tensor: 'x', bytes: 16, slot: null },
        { binding: 'out', access: 'read_write', tensor: 'add', bytes: 16, slot: 1 },
      ],
    },
    {
      ...{ index: 1, pass: 'D backward', layer: '', kernel: 'pointwise/fill', grid: [1, 1, 1] },
      ...{ tile: {}, immediates: { n: 4 }, flops: 0, bytes: 16 },
      buffers: [{ binding: 'out', access: 'read_write', tensor: 'fill', bytes: 2048, slot: 1 }],
    },
  ],
  memory: {
    ...{ plannedBytes: 2304, unplannedBytes: 2816, liveBytes: 2048 },
    slots: [
      { bytes: 256, tensors: [] },
      {
        bytes: 2048,
        tensors: [
          { tensor: 'add', bytes: 16, first: 0, last: 0 },
          { tensor: 'fill', bytes: 2048, first: 1, last: 2 },
        ],
      },
    ],
  },
};

describe('an explanation', () => {
  test('tells each launch with its place, constants, immediates and buffers', () => {
    expect(entryText(explanation.entries[0]!)).toBe(
      [
        '   0  pointwise/binary  grid 1×2×1  in loss',
        '      [OP=ADD]  n=4 param=0.1',
        '        a: x, 16 B, resident',
        '      → out: add, 16 B, slot 1',
      ].join('\n'),
    );
  });

  test('tells the passes and the plan of the memory', () => {
    const text = explanationText(explanation);
    expect(text).toContain('D forward: launches 0 to 0\n');
    expect(text).toContain('D backward: launches 1 to 1\n');
    expect(text).toContain('  in (no layer)');
    expect(text).toContain(
      'memory: 2 tensors in 2 buffers; 2.3 KiB planned, 2.8 KiB with a buffer a tensor, 2.0 KiB alive at once',
    );
    expect(text).toMatch(/^ +1 +2\.0 KiB +2 +█{48} +add, fill$/m);
    expect(text).toMatch(/^ +0 +256 B +0 +·{48}$/m);
  });

  test('finds a launch by number or kernel, and says what there is instead', () => {
    const find = (wanted: string) => findEntry(explanation.entries, wanted).index;
    expect(find('1')).toBe(1);
    expect(find('pointwise/fill')).toBe(1);
    expect(() => find('2')).toThrow('--entry 2 is past the end: the step has launches 0 to 1');
    expect(() => find('pointwise/fil')).toThrow(
      "--entry pointwise/fil is no launch's number and no kernel of this step; did you mean pointwise/fill?",
    );
  });

  test('draws a rectangle for each tensor that lives in planned memory', async () => {
    const svg = lifetimesSvg(explanation);
    expect(await pixelsOf(svg)).toBeGreaterThan(10);
    expect(svg.match(/<rect class="life"[^>]*><title>/g)).toHaveLength(2);
    expect(svg).toContain('<title>slot 1: fill, 0.00 MiB, launches 1 to 1</title>');
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  });
});
