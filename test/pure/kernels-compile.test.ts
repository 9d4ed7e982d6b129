// Every kernel compiles on Dawn's null backend, which needs no driver: each file as it stands, each record with its own
// constants, and each variant that an adapter of any class is given in a training step or a ladder.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { empty } from '../../src/autograd/tensor.ts';
import { Gpu } from '../../src/gpu/device.ts';
import { listAdapterSummaries } from '../../src/gpu/adapter.ts';
import type { AdapterSummary } from '../../src/gpu/adapter.ts';
import { bindingsOf, entriesOf, immediatesOf, rewriteStored } from '../../src/gpu/wgsl.ts';
import type { Stored } from '../../src/gpu/wgsl.ts';
import type { Dispatch, Storage } from '../../src/gpu/storage.ts';
import { sourceOf } from '../../src/kernels/kernel.ts';
import type * as KernelModule from '../../src/kernels/kernel.ts';
import {
  attention,
  attentionBackward,
  attentionBackwardLadder,
  attentionForwardLadder,
} from '../../src/kernels/attention.ts';
import {
  convDataGradLadder,
  convForwardLadder,
  convWeightGradLadder,
} from '../../src/kernels/conv.ts';
import type { ConvSizes } from '../../src/kernels/conv.ts';
import { crossEntropyLadder } from '../../src/kernels/cross-entropy.ts';
import { layerNormBackwardLadder, layerNormForwardLadder } from '../../src/kernels/layer-norm.ts';
import { convForwardMatrix } from '../../src/kernels/conv-matrix.ts';
import { matmulLadder } from '../../src/kernels/matmul.ts';
import type { MatmulRung } from '../../src/kernels/matmul.ts';
import { linearAttention, linearAttentionBackward } from '../../src/kernels/linear-attention.ts';
import {
  fullMask,
  maskedAttention,
  maskedAttentionBackward,
} from '../../src/kernels/masked-attention.ts';
import type { MaskedBackwardArgs } from '../../src/kernels/masked-attention.ts';
import type { Precision } from '../../src/kernels/precision.ts';
import type { Ladder } from '../../src/kernels/rung.ts';
import { softmaxBackwardLadder, softmaxForwardLadder } from '../../src/kernels/softmax.ts';
import { topkAttentionBackward, topkForwardLadder } from '../../src/kernels/topk-attention.ts';
import { presetNames, presets } from '../../src/models/presets.ts';
import type { PresetName } from '../../src/models/presets.ts';
import { add, mul, square } from '../../src/ops/pointwise.ts';
import { batchNorm } from '../../src/ops/norm.ts';
import { mean, sum } from '../../src/ops/reduce.ts';
import { avgPool2d, maxPool2d, resizeBilinear, upsampleNearest2x } from '../../src/ops/resample.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { stepInputs } from '../../src/train/learner.ts';
import { createLearner } from '../../src/train/learners.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { openPairs, resolveSeq2Seq } from '../../src/train/seq2seq/config.ts';
import { batchInput, createSeq2Seq, trainingStep } from '../../src/train/seq2seq/learner.ts';

type Kernel = KernelModule.Kernel;

/** Every record that any wrapper makes, exported or not. */
const records = vi.hoisted(() => new Set<Kernel>());
vi.mock('../../src/kernels/kernel.ts', async (original) => {
  const real = await original<typeof KernelModule>();
  return {
    ...real,
    kernel: (spec: Parameters<typeof real.kernel>[0]) => {
      const made = real.kernel(spec);
      records.add(made);
      return made;
    },
  };
});

const root = fileURLToPath(new URL('../..', import.meta.url));
const files = readdirSync(join(root, 'kernels'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.wgsl'))
  .map((file) => file.replaceAll('\\', '/'))
  .sort();
for (const file of readdirSync(join(root, 'src', 'kernels'))) {
  await import(pathToFileURL(join(root, 'src', 'kernels', file)).href);
}

const { adapters } = await listAdapterSummaries({ backend: 'null' });
const { adapter, summary } = adapters[0]!;
const requiredFeatures = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'];
const device = await adapter.requestDevice({
  requiredFeatures: requiredFeatures as GPUFeatureName[],
});
afterAll(() => {
  device.destroy();
});

type Access = 'read' | 'read_write';

/** The null backend has the portable floor of workgroup memory and no more: a tile for a larger GPU is checked but for that. */
const pastTheFloor = /The total use of workgroup storage \(\d+ bytes\) is larger than the maximum/;

/** Compiles with the bind group layout and immediates that the engine would give it; throws Dawn's message. */
async function compile(code: string, entry: string, access: readonly Access[], words: number) {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const layout = device.createBindGroupLayout({
    entries: access.map((type, binding) => ({
      ...{ binding, visibility: GPUShaderStage.COMPUTE },
      buffer: { type: type === 'read' ? 'read-only-storage' : 'storage' },
    })),
  });
  const descriptor = {
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout], immediateSize: 4 * words }),
    compute: { module, entryPoint: entry },
  };
  device.createComputePipeline(descriptor);
  const error = await device.popErrorScope();
  if (error && !pastTheFloor.test(error.message)) throw new Error(error.message);
}

/** Storage variables that an entry point or a function under it names: what automatic layout would find. */
function accessOf(code: string, record: Kernel): Access[] {
  const bindings = bindingsOf(code);
  return record.tensors.map((name) => bindings.find((b) => b.name === name)!.access);
}

/** What a file's tensors of `Stored` can be: only f32 where it has none. */
const storedIn = (file: string): readonly Stored[] =>
  /^alias Stored\b/m.test(sourceOf(file)) ? ['f32', 'f16'] : ['f32'];

describe('kernel files', () => {
  test('there are the families that SAGAN needs', () => {
    const families = new Set(files.map((file) => file.split('/')[0]));
    for (const family of ['attention', 'conv', 'matmul', 'norm', 'optim', 'softmax', 'spectral']) {
      expect(families).toContain(family);
    }
  });

  test.each(files.flatMap((file) => storedIn(file).map((stored) => [file, stored] as const)))(
    '%s is valid WGSL as it stands, tensors of %s',
    async (file, stored) => {
      const code = rewriteStored(sourceOf(file), stored);
      const entries = entriesOf(code);
      expect(entries.length).toBeGreaterThan(0);
      const module = device.createShaderModule({ code });
      const { messages } = await module.getCompilationInfo();
      expect(messages.map((m) => `${m.lineNum}:${m.linePos} ${m.message}`)).toEqual([]);
      for (const entryPoint of entries) {
        device.pushErrorScope('validation');
        device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint } });
        expect((await device.popErrorScope())?.message, entryPoint).toBeUndefined();
      }
    },
  );

  test('the families that hold activations serve f16', () => {
    const serving = files.filter((file) => storedIn(file).includes('f16'));
    for (const family of ['pointwise', 'norm', 'reduce', 'resample', 'layout', 'softmax']) {
      expect(serving.map((file) => file.split('/')[0])).toContain(family);
    }
  });

  test.each(files)('every entry of %s has a record', (file) => {
    const used = [...records].filter((r) => r.file === file).map((r) => r.entry ?? 'main');
    expect([...new Set(used)].sort()).toEqual([...entriesOf(sourceOf(file))].sort());
  });

  test.each(files)('%s has immediates within the portable 64 bytes', (file) => {
    expect(immediatesOf(sourceOf(file)).length).toBeLessThanOrEqual(16);
  });

  test.each(files)('the head of %s tells its shapes and its cost', (file) => {
    const head = /^(?:\/\/.*\n)+/.exec(sourceOf(file))?.[0] ?? '';
    expect(head).toMatch(/\[[^\]]+\]/);
    expect(head).toMatch(/^\/\/ cost /m);
    expect(head.split('\n').length - 1).toBeLessThanOrEqual(24);
  });
});

describe('kernel records', () => {
  test.each(
    [...records].flatMap((r) => storedIn(r.file).map((stored) => [r.name, stored, r] as const)),
  )(
    '%s names the bindings, immediates and constants of its file, tensors of %s',
    async (_name, stored, record) => {
      const spec = record.specialise({}, stored);
      expect(spec.access).toEqual(accessOf(spec.code, record));
      await compile(spec.code, spec.entry, spec.access, spec.immediates.length);
    },
  );

  test('no two records share a name', () => {
    const names = [...records].map((r) => r.name);
    expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
  });

  test('a record that does not fit its file says how', async () => {
    const { kernel } = await vi.importActual<typeof KernelModule>('../../src/kernels/kernel.ts');
    const zero = () => 0;
    const fits = {
      file: 'pointwise/fill.wgsl',
      grid: () => [1, 1, 1] as const,
      flops: zero,
      bytes: zero,
    };
    const dims = ['n', 'value'] as const;
    const broken = (spec: object) => () =>
      kernel({ ...fits, tensors: ['out'], dims, ...spec }).specialise();
    expect(broken({})).not.toThrow();
    expect(broken({ entry: 'other' })).toThrow('pointwise/fill.wgsl has no entry other');
    expect(broken({ tensors: ['lost'] })).toThrow('binds no tensor named lost');
    expect(
      broken({ file: 'pointwise/binary.wgsl', dims: ['n', 'param'], tensors: ['b', 'a', 'out'] }),
    ).toThrow('pointwise/binary.wgsl: b is binding 1, listed as 0');
    expect(broken({ dims: ['n'] })).toThrow(
      'pointwise/fill.wgsl: immediates are n,value, the record lists n',
    );
    expect(broken({ tile: { LOST: 4 } })).toThrow('no module-scope const LOST');
  });
});

const precisions: readonly Precision[] = [{}, { precision: 'f16' }, { stored: 'f16' }];

/** Adapters that differ in what the wrappers choose by. */
const machines: Readonly<Record<string, Partial<AdapterSummary>>> = {
  'a software driver of 4 lanes': { kind: 'software', subgroupSizes: [4, 4] },
  'a software driver of 8 lanes': { kind: 'software', subgroupSizes: [8, 8] },
  'a software driver of 16 lanes': { kind: 'software', subgroupSizes: [16, 16] },
  'an integrated GPU': { kind: 'integrated', subgroupSizes: [8, 32] },
  'a discrete GPU': { kind: 'discrete', subgroupSizes: [32, 32] },
  'a GPU with tensor cores': {
    ...{ kind: 'discrete', subgroupSizes: [32, 32], matrixConfigs: ['f16→f32 16×16×16'] },
    limits: { ...summary.limits, maxComputeWorkgroupStorageSize: 49152 },
  },
};

describe.each(Object.entries(machines))('variants for %s', (_name, machine) => {
  const open = () => new Gpu(device, { ...summary, ...machine }, {});

  /** Captures `body` and compiles every variant that it launched. */
  async function compileAll(gpu: Gpu, body: () => unknown): Promise<number> {
    const capture = gpu.capture(() => {
      body();
      return [];
    });
    const variants = new Map(capture.dispatches.map((d: Dispatch) => [d.spec.key, d]));
    for (const { spec, grid } of variants.values()) {
      await compile(spec.code, spec.entry, spec.access, spec.immediates.length);
      expect(
        grid.every((g) => Number.isInteger(g) && g > 0),
        spec.key,
      ).toBe(true);
    }
    return variants.size;
  }

  /** The variants that a training step launches, compiled. */
  async function compileStep(gpu: Gpu, preset: PresetName, more: object = {}) {
    const tape = new Tape(gpu);
    // Initialising a wide net on the host takes seconds, and its kernels are those of a narrower one.
    const narrow = { width: Math.min(16, presets[preset].options.width), init: 'normal' };
    const config = resolveConfig({ data: 'none', preset, batch: 2, ...narrow, ...more });
    const learner = createLearner(tape, config);
    const variants = await compileAll(gpu, () => {
      learner.step(stepInputs(learner));
    });
    gpu.pool.destroy();
    return variants;
  }

  // One of the residual nets and of the VAEs: their sizes share most programs.
  const others = presetNames.filter((name) => !/resnet-(32|128)|vae-(32-tiny|64)/.test(name));
  test.each(others)('a training step of %s', async (preset) => {
    const told = /resnet|vae/.test(preset) ? { conditional: true, classes: 3 } : {};
    expect(await compileStep(open(), preset, told)).toBeGreaterThan(20);
  });

  test('a training step with a penalty', async () => {
    const penalty = { loss: 'bce', labelSmoothing: 0.1, regularizer: 'gp' };
    expect(await compileStep(open(), 'sagan-32-tiny', penalty)).toBeGreaterThan(20);
  });

  test('a training step in f16, where there is f16', async () => {
    const gpu = open();
    const made = compileStep(gpu, 'sagan-32', { precision: 'f16' });
    if (gpu.features.has('shader-f16')) expect(await made).toBeGreaterThan(20);
    else await expect(made).rejects.toThrow('--precision f16 needs the feature shader-f16');
  });

  test('a training step of seq2seq, and every tile of its own kernels', async () => {
    const gpu = open();
    const sizes = { length: 3, dModel: 8, heads: 2, layers: 1, feedForward: 8, batch: 2 };
    const config = resolveSeq2Seq({ task: 'copy', dropout: 0.1, ...sizes });
    const sized = { ...config, length: 3 };
    const learner = createSeq2Seq(new Tape(gpu), sized, openPairs(sized));
    const step = () => trainingStep(learner, batchInput(learner.tape, sized));
    expect(await compileAll(gpu, step)).toBeGreaterThan(20);
    const everyTile = <D extends object, A, O extends string>(ladder: Ladder<D, A, O>, dims: D) => {
      const storages = Object.entries<number>(ladder.operands(dims)).map(
        ([operand, n]) => [operand, gpu.alloc(4 * n, operand)] as const,
      );
      const args = ladder.argsOf(dims, Object.fromEntries(storages) as Record<O, Storage>);
      for (const rung of ladder.rungs.filter((r) => r.fits(gpu, dims))) {
        for (const tile of rung.tiles(gpu, dims)) rung.run(gpu, args, tile);
      }
    };
    await compileAll(gpu, () => {
      everyTile(layerNormForwardLadder, { rows: 5, cols: 8 });
      everyTile(layerNormBackwardLadder, { rows: 5, cols: 8 });
      everyTile(crossEntropyLadder, { rows: 5, classes: 8 });
    });
  });

  test('every rung of matmul, every transpose, sizes with and without vec4', async () => {
    const gpu = open();
    const fits = (rung: MatmulRung) =>
      rung.fits(gpu, {
        ...{ M: 1, N: 1, K: 1, batch: 1, strideA: 0, strideB: 0 },
        transA: false,
        transB: false,
      });
    for (const rung of matmulLadder.rungs.filter(fits)) {
      for (const transA of [false, true]) {
        for (const transB of [false, true]) {
          for (const [M, N, K] of [
            ...[
              [1, 1, 1],
              [5, 7, 3],
              [8, 8, 8],
              [8, 6, 4],
              [6, 8, 4],
              [7, 4, 5],
            ],
            ...[
              [64, 64, 64],
              [512, 512, 32],
              [2048, 2048, 16],
              [2047, 2045, 15],
            ],
          ] as [number, number, number][]) {
            await compileAll(gpu, () => {
              const [a, b, out] = [M * K, K * N, M * N].map((n) => gpu.alloc(4 * n, 'matrix'));
              const plain = { M, N, K, batch: 1, strideA: 0, strideB: 0, transA, transB };
              for (const precision of precisions) {
                const sizes = { ...plain, ...precision };
                if (!rung.fits(gpu, sizes)) continue;
                for (const tile of rung.tiles(gpu, sizes)) {
                  rung.run(gpu, { a: a!, b: b!, out: out!, ...sizes }, tile);
                }
              }
            });
          }
        }
      }
    }
  });

  test('every rung of the convolutions, on windows of every kind', async () => {
    const gpu = open();
    for (const [N, C, size, K, window, stride, pad] of [
      ...[
        [2, 3, 8, 5, 4, 2, 1],
        [2, 4, 8, 8, 4, 2, 1],
        [1, 6, 1, 4, 4, 1, 3],
        [3, 5, 7, 2, 3, 1, 1],
      ],
      ...[
        [2, 8, 4, 4, 1, 1, 0],
        [2, 3, 5, 7, 1, 1, 0],
        [64, 64, 32, 128, 4, 2, 1],
        [64, 8, 4, 1, 4, 1, 0],
        [2, 20, 9, 40, 3, 1, 1],
      ],
    ] as [number, number, number, number, number, number, number][]) {
      const out = Math.floor((size + 2 * pad - window) / stride) + 1;
      const image = { N, C, H: size, W: size, K, R: window, S: window, OH: out, OW: out };
      const dims = { ...image, strideH: stride, strideW: stride, padH: pad, padW: pad };
      const runAll = <Args, O extends string>(ladder: Ladder<ConvSizes, Args, O>) => {
        for (const precision of precisions) {
          const sizes = { ...dims, ...precision };
          for (const rung of ladder.rungs.filter((r) => r.fits(gpu, sizes))) {
            for (const tile of rung.tiles(gpu, sizes)) {
              const storages = Object.entries<number>(ladder.operands(sizes)).map(
                ([operand, n]) => [operand, gpu.alloc(4 * n, operand)] as const,
              );
              const args = ladder.argsOf(sizes, Object.fromEntries(storages) as Record<O, Storage>);
              rung.run(gpu, args, tile);
              const biased = { ...args, bias: gpu.alloc(4 * Math.max(K, C), 'bias') };
              rung.run(gpu, biased, tile);
              if (ladder.name !== convForwardLadder.name) continue;
              for (const slope of [0, 0.1]) {
                rung.run(gpu, { ...args, activation: { slope } }, tile);
                rung.run(gpu, { ...biased, activation: { slope } }, tile);
              }
            }
          }
        }
      };
      const cores = convForwardMatrix.fits(gpu, { ...dims, precision: 'f16' });
      expect(cores).toBe(gpu.adapter.matrixConfigs.length > 0);
      await compileAll(gpu, () => {
        runAll(convForwardLadder);
        runAll(convDataGradLadder);
        runAll(convWeightGradLadder);
      });
    }
  });

  test('every rung of softmax and attention, odd and wide', async () => {
    const gpu = open();
    for (const [rows, cols] of [
      [5, 7],
      [64, 64],
      [3, 4096],
    ] as const) {
      await compileAll(gpu, () => {
        const [x, out, dx] = [0, 1, 2].map(() => gpu.alloc(4 * rows * cols, 'rows'));
        for (const stored of ['f32', 'f16'] as const) {
          const dims = { rows, cols, stored };
          for (const rung of softmaxForwardLadder.rungs.filter((r) => r.fits(gpu, dims))) {
            for (const tile of rung.tiles(gpu, dims)) {
              rung.run(gpu, { ...dims, x: x!, out: out! }, tile);
            }
          }
          for (const rung of softmaxBackwardLadder.rungs.filter((r) => r.fits(gpu, dims))) {
            for (const tile of rung.tiles(gpu, dims)) {
              rung.run(gpu, { ...dims, y: x!, dy: out!, dx: dx! }, tile);
            }
          }
        }
      });
    }
    for (const [Nq, Nk, DK, DV] of [
      [1, 1, 1, 1],
      [15, 9, 3, 5],
      [81, 33, 5, 70],
      [64, 64, 8, 64],
      [1024, 256, 32, 128],
    ] as const) {
      for (const layout of ['channel', 'sequence'] as const) {
        await compileAll(gpu, () => {
          const sizes = { B: 2, Nq, Nk, DK, DV, scale: 1, layout };
          const storages = Object.fromEntries(
            Object.entries(attentionBackwardLadder.operands(sizes)).map(([name, n]) => [
              name,
              gpu.alloc(4 * n, name),
            ]),
          ) as Parameters<typeof attentionBackwardLadder.argsOf>[1];
          for (const precision of precisions) {
            const dims = { ...sizes, ...precision };
            const args = attentionBackwardLadder.argsOf(dims, storages);
            for (const rung of attentionForwardLadder.rungs.filter((r) => r.fits(gpu, dims))) {
              for (const tile of rung.tiles(gpu, dims)) rung.run(gpu, args, tile);
            }
            for (const rung of attentionBackwardLadder.rungs.filter((r) => r.fits(gpu, dims))) {
              for (const tile of rung.tiles(gpu, dims)) {
                rung.run(gpu, args, tile);
                rung.run(gpu, { ...args, dv: undefined }, tile);
                rung.run(gpu, { ...args, dk: undefined }, tile);
              }
            }
            attention(gpu, args);
            attentionBackward(gpu, args);
          }
        });
      }
    }
  });

  test('masked, top-k and linear attention, narrow and wide', async () => {
    const gpu = open();
    const masks = [
      ['none', true],
      ['boolean', false],
      ['additive', true],
    ] as const;
    for (const layout of ['channel', 'sequence'] as const) {
      for (const stored of ['f32', 'f16'] as const) {
        const [Nq, Nk, scale] = [15, 9, 1];
        const narrow = { B: 2, Nq, Nk, DK: 3, DV: 5, scale, layout, stored };
        const some = gpu.alloc(2 ** 20, 'anything');
        const made = { q: some, k: some, v: some, out: some, lse: some, dOut: some };
        const args = { ...narrow, ...made, dq: some, dk: some, dv: some };
        await compileAll(gpu, () => {
          for (const [mask, causal] of masks) {
            const wide = mask === 'none' ? { DK: 35, DV: 70 } : {};
            const masked: MaskedBackwardArgs = {
              ...{ ...args, ...wide, hides: some, mask, causal, heads: 1 },
              ...{ maskItems: 1, maskHeads: 1, maskQueries: Nq, maskKeys: 1 },
            };
            maskedAttention(gpu, masked);
            maskedAttentionBackward(gpu, masked);
            maskedAttentionBackward(gpu, { ...masked, dk: undefined });
            fullMask(gpu, { ...masked, bias: some, shown: some });
          }
          linearAttention(gpu, { ...args, state: some });
          linearAttentionBackward(gpu, { ...args, state: some });
          const pairs = { ...args, top: 3, index: some, weight: some };
          for (const rung of topkForwardLadder.rungs) rung.run(gpu, pairs);
          topkAttentionBackward(gpu, pairs);
        });
      }
    }
  });

  test.each(['f32', 'f16'] as const)(
    'the ops that SAGAN leaves out, with first and second derivatives, of %s',
    async (dtype) => {
      const gpu = open();
      const tape = new Tape(gpu);
      const input = (...shape: number[]) => empty(tape, shape, { dtype, requiresGrad: true });
      const twice = (x: Tensor, f: (x: Tensor) => Tensor) => {
        const [g] = grad([sum(f(x))], [x], { createGraph: true });
        grad([sum(square(g!))], [x], { allowUnused: true });
      };
      for (const size of [4, 5, 64]) {
        await compileAll(gpu, () => {
          const image = input(2, 3, size, size);
          twice(image, (x) => maxPool2d(square(x), 2));
          twice(image, (x) => avgPool2d(square(x), 3, { stride: 2, padding: 1 }));
          twice(image, (x) => avgPool2d(square(x), 3, { padding: 1, countIncludePad: false }));
          twice(image, (x) => upsampleNearest2x(square(x)));
          twice(image, (x) => resizeBilinear(square(x), [3, 7]));
          twice(image, (x) => softmax(x));
          twice(image, (x) => mean(mul(x, add(x, 1)), [0, 2]));
          const statistics = { runningMean: empty(tape, [3]), runningVar: empty(tape, [3]) };
          twice(image, (x) => batchNorm(x, { ...statistics, training: true }));
        });
      }
    },
  );
});
