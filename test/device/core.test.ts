// The engine under the ops: memory, order, capture and replay, readback, and what happens when the device fails.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { empty, tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import type { PipelineSpec } from '../../src/gpu/pipelines.ts';
import { deferredPolls } from '../../src/gpu/platform.ts';
import { sizeClass } from '../../src/gpu/pool.ts';
import { ReadbackRing } from '../../src/gpu/readback.ts';
import { Adam } from '../../src/optim/adam.ts';
import { copyInto } from '../../src/ops/copy.ts';
import { linear, matmul } from '../../src/ops/matmul.ts';
import { add, leakyRelu, maximum, mul, square, sub } from '../../src/ops/pointwise.ts';
import { Rng } from '../../src/ops/random.ts';
import { mean } from '../../src/ops/reduce.ts';
import { openTestGpu } from '../support/device.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

function bits(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/** A two-layer net that learns x → Σx under noise: matmul, broadcast, reduction, randomness, Adam with an average. */
class SmallNet {
  readonly w1: Tensor;
  readonly b1: Tensor;
  readonly w2: Tensor;
  readonly average: Tensor;
  readonly x: Tensor;
  readonly target: Tensor;
  readonly adam: Adam;
  readonly rng: Rng;

  constructor(on: Tape) {
    const parameter = (label: string, shape: number[], seed: number) => {
      const n = shape.reduce((a, b) => a * b, 1);
      return tensor(on, randomFloats(n, seed), shape, { label, requiresGrad: true });
    };
    this.w1 = parameter('w1', [7, 5], 1);
    this.b1 = parameter('b1', [7], 2);
    this.w2 = parameter('w2', [1, 7], 3);
    this.average = tensor(on, randomFloats(35, 1), [7, 5], { label: 'average' });
    const x = randomFloats(40, 4);
    this.x = tensor(on, x, [8, 5], { label: 'x' });
    const sums = Array.from({ length: 8 }, (_u, i) =>
      x.subarray(5 * i, 5 * i + 5).reduce((a, b) => a + b, 0),
    );
    this.target = tensor(on, sums, [8, 1], { label: 'target' });
    const params = Object.entries({ w1: this.w1, b1: this.b1, w2: this.w2 });
    const ema = new Map([['w1', this.average]]);
    this.adam = new Adam(on, [{ params, lr: 0.02, betas: [0.5, 0.9], ema, emaDecay: 0.9 }]);
    this.rng = new Rng(on, 7);
  }

  step(): Tensor {
    const noisy = add(this.x, this.rng.normal([8, 5], { std: 0.01 }));
    const hidden = leakyRelu(add(linear(noisy, this.w1), this.b1), 0.1);
    const bounded = maximum(hidden, -2);
    const loss = mean(square(sub(linear(bounded, this.w2), this.target)));
    this.adam.step(grad([loss], this.adam.parameters()));
    this.rng.advance();
    return loss;
  }

  async state(): Promise<Uint32Array[]> {
    const moments = [...this.adam.namedState()].map(([, t]) => t);
    const all = [this.w1, this.b1, this.w2, this.average, ...moments];
    return Promise.all(all.map(async (t) => bits(await t.read())));
  }
}

function created(on: Gpu) {
  return {
    buffers: on.pool.stats().created,
    pipelines: on.pipelines.created,
    bindGroups: on.recorder.created,
  };
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

describe('memory', () => {
  test('live, peak and held bytes are exact', () => {
    const before = gpu.pool.stats();
    const a = gpu.alloc(1000, 'a');
    const b = gpu.alloc(5000, 'b');
    const both = sizeClass(1000) + sizeClass(5000);
    expect(gpu.pool.stats().liveBytes - before.liveBytes).toBe(both);
    expect(gpu.pool.stats().liveBlocks - before.liveBlocks).toBe(2);
    gpu.release(a);
    expect(gpu.pool.stats().liveBytes - before.liveBytes).toBe(sizeClass(5000));
    expect(gpu.pool.stats().peakBytes).toBeGreaterThanOrEqual(before.liveBytes + both);
    gpu.release(b);
    expect(gpu.pool.stats().liveBytes).toBe(before.liveBytes);
    gpu.release(b);
    expect(gpu.pool.stats().liveBytes).toBe(before.liveBytes);
  });

  test('a released block is handed out again for its size class, and only for that', () => {
    const a = gpu.alloc(3000, 'a');
    const block = a.block;
    gpu.release(a);
    const { created: count } = gpu.pool.stats();
    const same = gpu.alloc(2900, 'same');
    expect(sizeClass(2900)).toBe(sizeClass(3000));
    expect(same.block).toBe(block);
    expect(gpu.pool.stats().created).toBe(count);
    gpu.release(same);
  });

  test('trim destroys what nobody uses, even where launches on it are not yet submitted', async () => {
    const x = tensor(tape, [1, 2, 3], [3]);
    const y = gpu.scope(
      () => add(mul(x, 2), x),
      (t) => [t.storage],
    );
    gpu.pool.trim();
    const { heldBytes, liveBytes } = gpu.pool.stats();
    expect(heldBytes).toBe(liveBytes);
    expect([...(await y.read())]).toEqual([3, 6, 9]);
    gpu.release(y.storage);
    gpu.release(x.storage);
  });

  test('past the budget the message says what was wanted, what is in use and what to do', () => {
    gpu.pool.trim();
    const { budgetBytes } = gpu.pool;
    const big = gpu.alloc(2 ** 20, 'weights');
    try {
      gpu.pool.budgetBytes = gpu.pool.stats().heldBytes + 2 ** 20;
      const live = (gpu.pool.stats().liveBytes / 2 ** 20).toFixed(1);
      const budget = (gpu.pool.budgetBytes / 2 ** 20).toFixed(1);
      expect(() => gpu.alloc(2 ** 21, 'activations')).toThrow(
        `out of memory: activations needs 2.0 MiB, ${live} MiB are in use and the budget is ${budget} MiB; try a smaller --batch`,
      );
      // free blocks make room before anybody is refused
      gpu.release(gpu.alloc(2 ** 20, 'first'));
      gpu.release(gpu.alloc(2 ** 19, 'second'));
    } finally {
      gpu.pool.budgetBytes = budgetBytes;
      gpu.release(big);
    }
  });

  test('a loan leaves no bytes and no bind groups behind, in whatever order its blocks come', async () => {
    const own = await openTestGpu();
    const ownTape = new Tape(own);
    const outside = tensor(ownTape, [1, 2], [2]);
    await mul(outside, outside).read();
    const before = own.recorder.kept;
    const { liveBytes } = own.pool.stats();
    expect(before).toBeGreaterThan(0);
    for (let loan = 0; loan < 5; loan++) {
      await own.loans.during(async () => {
        const parts = Array.from({ length: 1 + loan }, (_u, i) => tensor(ownTape, [i, 1], [2]));
        const sum = parts.reduce((a, b) => add(a, b), mul(outside, outside));
        expect((await sum.read())[1]).toBe(5 + loan);
        expect(own.recorder.kept).toBeGreaterThan(before);
      });
      expect(own.recorder.kept).toBe(before);
      expect(own.pool.stats().liveBytes).toBe(liveBytes);
    }
    own.close();
  });

  test('a tensor past the binding limit is refused by name', () => {
    const limit = gpu.limits['maxStorageBufferBindingSize']!;
    expect(() => gpu.alloc(limit + 1, 'scores')).toThrow(
      `scores needs ${limit + 1} bytes in one buffer, and this device binds at most ${limit}; try a smaller --batch`,
    );
  });

  test('a scope gives back what was made inside, but for what it keeps', () => {
    const before = gpu.pool.stats();
    const outer = gpu.scope(() => {
      const kept = gpu.scope(
        () => {
          gpu.alloc(4096, 'lost');
          return gpu.alloc(4096, 'kept');
        },
        (s) => [s],
      );
      expect(gpu.pool.stats().liveBytes - before.liveBytes).toBe(4096);
      expect(kept.block).toBeDefined();
      return kept;
    });
    expect(outer.block).toBeUndefined();
    expect(gpu.pool.stats().liveBytes).toBe(before.liveBytes);
    expect(gpu.pool.stats().liveBlocks).toBe(before.liveBlocks);
  });

  test('a scope that throws gives everything back', () => {
    const before = gpu.pool.stats().liveBytes;
    const body = () =>
      gpu.scope(() => {
        gpu.alloc(4096, 'lost');
        throw new Error('in the middle');
      });
    expect(body).toThrow('in the middle');
    expect(gpu.pool.stats().liveBytes).toBe(before);
  });

  test('host data and what is marked persistent outlive a scope', async () => {
    const [data, marked] = gpu.scope(() => [
      tensor(tape, [1, 2], [2]),
      gpu.persistent(() => empty(tape, [2])),
    ]);
    expect([...(await data!.read())]).toEqual([1, 2]);
    expect(marked!.storage.block).toBeDefined();
    for (const t of [data!, marked!]) gpu.release(t.storage);
  });

  test('a released tensor is named when it is used', () => {
    const x = empty(tape, [2], { label: 'gone' });
    gpu.release(x.storage);
    expect(() => mul(x, 2)).toThrow('gone belongs to a captured program or was released');
    expect(() => {
      x.set(Float32Array.of(1, 2));
    }).toThrow('gone has no bytes to write to');
  });
});

describe('guards', () => {
  test('a fresh block is poisoned with NaN', async () => {
    const x = empty(tape, [4]);
    expect([...bits(await x.read())]).toEqual(new Array(4).fill(0x7fc0beef));
    gpu.release(x.storage);
  });

  test('poison never reaches a launch that still reads the block', async () => {
    const x = empty(tape, [64]);
    x.set(new Float32Array(64).fill(3));
    const y = add(x, x);
    gpu.release(x.storage);
    const z = empty(tape, [64]);
    expect(z.storage.block!.capacity).toBe(256);
    expect([...(await y.read())]).toEqual(new Array(64).fill(6));
    for (const t of [y, z]) gpu.release(t.storage);
  });

  test('a write outside its block is told with the block’s name', async () => {
    expect(await gpu.brokenGuards()).toEqual([]);
    const block = gpu.pool.acquire(777_777, 'the broken one');
    gpu.device.queue.writeBuffer(block.buffer, block.offset + block.capacity, new Uint32Array(1));
    expect(await gpu.brokenGuards()).toEqual(['the broken one']);
    gpu.pool.release(block);
    gpu.pool.trim();
  });
});

describe('device', () => {
  test('has every feature and limit of its adapter that the engine has a use for', () => {
    const has = (name: string) => gpu.adapter.features.includes(name);
    for (const name of ['timestamp-query', 'shader-f16', 'subgroups', 'subgroup-size-control']) {
      expect(gpu.device.features.has(name), name).toBe(has(name));
    }
    const limits = [
      ...['maxBufferSize', 'maxStorageBufferBindingSize', 'maxStorageBuffersPerShaderStage'],
      ...['maxComputeWorkgroupStorageSize', 'maxComputeInvocationsPerWorkgroup'],
    ] as (keyof GPUSupportedLimits)[];
    for (const name of limits) expect(gpu.device.limits[name], name).toBe(gpu.adapter.limits[name]);
  });
});

describe('order', () => {
  test('launches, writes and reads happen as they were called', async () => {
    const x = tensor(tape, [1], [1]);
    const first = add(x, 10);
    x.set(Float32Array.of(2));
    const second = add(x, 10);
    const early = x.read();
    x.set(Float32Array.of(3));
    expect([...(await early)]).toEqual([2]);
    expect([...(await second.read())]).toEqual([12]);
    expect([...(await first.read())]).toEqual([11]);
    expect([...(await x.read())]).toEqual([3]);
  });

  test('a value goes through hundreds of dependent launches', async () => {
    const last = gpu.scope(
      () => {
        let x = tensor(tape, [0], [1]);
        for (let i = 0; i < 700; i++) x = add(x, 1);
        return x;
      },
      (x) => [x.storage],
    );
    expect(await last.item()).toBe(700);
    gpu.release(last.storage);
  });

  test('data that does not fill the tensor is refused', () => {
    const x = empty(tape, [2, 3], { label: 'pixels' });
    expect(() => {
      x.set(new Float32Array(5));
    }).toThrow('pixels: 5 values do not fill [2, 3] (6)');
    gpu.release(x.storage);
  });

  test('one value is asked of a tensor with one element only', async () => {
    const x = tensor(tape, [1, 2], [2]);
    await expect(x.item()).rejects.toThrow('item(): [2] has 2 values');
    const u = tensor(tape, Uint32Array.of(7), [1], { label: 'index' });
    await expect(u.read()).rejects.toThrow('index is u32: use readU32()');
    expect(await u.item()).toBe(7);
  });
});

describe('programs', () => {
  test('eager and replay give the same bits, parameters, moments and averages alike', async () => {
    const [eager, replayed] = [new SmallNet(tape), new SmallNet(tape)];
    let output: Tensor | undefined;
    const capture = gpu.capture(() => {
      output = replayed.step();
      return [output.storage];
    });
    const program = await capture.build();
    const start = await eager.state();
    expect(await replayed.state()).toEqual(start);
    const losses: number[] = [];
    for (let i = 0; i < 20; i++) {
      const loss = gpu.scope(
        () => eager.step(),
        (t) => [t.storage],
      );
      program.run();
      const [a, b] = [await loss.read(), await output!.read()];
      expect(bits(b)).toEqual(bits(a));
      losses.push(a[0]!);
      gpu.release(loss.storage);
    }
    const end = await eager.state();
    expect(await replayed.state()).toEqual(end);
    expect(end).not.toEqual(start);
    expect(losses.at(-1)!).toBeLessThan(0.5 * losses[0]!);
    program.destroy();
  });

  test('capturing runs nothing and takes no memory', async () => {
    const net = new SmallNet(tape);
    const start = await net.state();
    const before = { ...gpu.pool.stats(), ...created(gpu) };
    const capture = gpu.capture(() => [net.step().storage]);
    expect({ ...gpu.pool.stats(), ...created(gpu) }).toEqual(before);
    expect(capture.dispatches.length).toBeGreaterThan(15);
    expect(await net.state()).toEqual(start);
  });

  test('a plan is smaller than a buffer a tensor, and no smaller than what is alive', async () => {
    const net = new SmallNet(tape);
    const capture = gpu.capture(() => [net.step().storage]);
    const { plannedBytes, unplannedBytes, liveBytes } = capture.memory;
    expect(plannedBytes).toBeLessThan(0.7 * unplannedBytes);
    expect(plannedBytes).toBeGreaterThanOrEqual(liveBytes);
    const before = gpu.pool.stats().liveBytes;
    const program = await capture.build();
    expect(gpu.pool.stats().liveBytes - before).toBe(plannedBytes);
    expect(program.flops).toBe(capture.dispatches.reduce((n, d) => n + d.flops, 0));
    program.destroy();
    expect(gpu.pool.stats().liveBytes).toBe(before);
    program.destroy();
    expect(gpu.pool.stats().liveBytes).toBe(before);
  });

  test('a step that does not fit is refused before anything is taken', async () => {
    const net = new SmallNet(tape);
    const capture = gpu.capture(() => [net.step().storage]);
    const { budgetBytes } = gpu.pool;
    try {
      gpu.pool.budgetBytes = gpu.pool.stats().liveBytes + capture.memory.plannedBytes - 1;
      const before = gpu.pool.stats();
      expect(capture.fits).toBe(false);
      await expect(capture.build()).rejects.toThrow(
        /^out of memory: the step needs 0\.00 GiB beside 0\.00 GiB of weights and state, and the budget is 0\.00 GiB; try a smaller --batch$/,
      );
      expect(gpu.pool.stats()).toEqual(before);
      gpu.pool.budgetBytes += 1;
      expect(capture.fits).toBe(true);
    } finally {
      gpu.pool.budgetBytes = budgetBytes;
    }
  });

  test('an output of a destroyed program has no bytes', async () => {
    const x = tensor(tape, [1], [1]);
    let y: Tensor | undefined;
    const program = await gpu.capture(() => [(y = add(x, 1)).storage]).build();
    program.run();
    expect(await y!.item()).toBe(2);
    program.destroy();
    await expect(y!.read()).rejects.toThrow('belongs to a captured program or was released');
  });

  test('a destroyed program cannot run on memory that is somebody else’s', async () => {
    const x = tensor(tape, [1], [1]);
    const capture = gpu.capture(() => [add(x, 1).storage]);
    const program = await capture.build();
    program.destroy();
    program.destroy();
    const fresh = tensor(tape, [42], [1]);
    expect(() => program.run()).toThrow('the program was destroyed');
    await expect(program.profile()).rejects.toThrow('the program was destroyed');
    expect(await fresh.item()).toBe(42);
  });

  test('a capture makes one program', async () => {
    const x = tensor(tape, [1], [1]);
    let y: Tensor | undefined;
    const capture = gpu.capture(() => [(y = add(x, 1)).storage]);
    const program = await capture.build();
    await expect(capture.build()).rejects.toThrow('the capture has its program already');
    program.run();
    expect(await y!.item()).toBe(2);
    program.destroy();
  });

  test('captures do not nest, and nothing is read inside one', async () => {
    const x = tensor(tape, [1], [1]);
    expect(() => gpu.capture(() => ([gpu.capture(() => []), x][1] === x ? [] : []))).toThrow(
      'captures do not nest',
    );
    let reading: Promise<unknown> = Promise.resolve();
    gpu.capture(() => {
      reading = x.read();
      reading.catch(() => undefined);
      return [];
    });
    await expect(reading).rejects.toThrow('cannot be read while a step is being captured');
    const broken = () =>
      gpu.capture(() => {
        throw new Error('in the step');
      });
    expect(broken).toThrow('in the step');
    expect(gpu.capturing).toBe(false);
    expect(await add(x, 1).item()).toBe(2);
  });

  test('every launch of a program can be timed on the GPU clock', async ({ skip }) => {
    if (!gpu.features.has('timestamp-query')) skip('the adapter has no timestamp-query');
    const net = new SmallNet(tape);
    const program = await gpu.capture(() => [net.step().storage]).build();
    const times = await program.profile();
    expect(times.map((t) => t.dispatch)).toEqual(program.entries.map((e) => e.dispatch));
    for (const { ms } of times) {
      expect(ms).toBeGreaterThanOrEqual(0);
      expect(ms).toBeLessThan(10_000);
    }
    expect(times.some(({ ms }) => ms > 0)).toBe(true);
    program.destroy();
  });
});

describe('a thousand steps', () => {
  test('replayed: no buffer, pipeline or bind group is made, and no memory grows', async () => {
    const net = new SmallNet(tape);
    const losses: number[] = [];
    let loss: Tensor | undefined;
    const program = await gpu.capture(() => [(loss = net.step()).storage]).build();
    const ring = new ReadbackRing(gpu, [loss!.storage], {
      onValues: ([value]) => losses.push(value!),
    });
    const run = async (steps: number) => {
      for (let i = 0; i < steps; i++) {
        await ring.ready();
        program.run(ring);
      }
      await ring.drain();
      collectGarbage();
    };
    await run(300);
    const before = { ...created(gpu), ...gpu.pool.stats() };
    // A leak grows in every thousand steps; the allocators and the driver's caches settle in one of a few.
    const growth: { resident: number; heap: number }[] = [];
    let steps = 300;
    const settled = () => growth.some(({ resident, heap }) => resident < 1024 && heap < 64);
    for (; growth.length < 12 && !settled(); steps += 1000) {
      const from = process.memoryUsage();
      await run(1000);
      const to = process.memoryUsage();
      growth.push({
        resident: (to.rss - from.rss) / 1000,
        heap: (to.heapUsed - from.heapUsed) / 1000,
      });
      expect({ ...created(gpu), ...gpu.pool.stats() }).toEqual(before);
    }
    expect(settled(), `bytes a step: ${JSON.stringify(growth)}`).toBe(true);
    expect(losses).toHaveLength(steps);
    expect(losses.at(-1)!).toBeLessThan(0.05 * losses[0]!);
    ring.destroy();
    program.destroy();
  });

  test('eager: the pool settles after the first step', async () => {
    const net = new SmallNet(tape);
    const step = () =>
      gpu.scope(() => {
        net.step();
      });
    for (let i = 0; i < 3; i++) step();
    const before = { ...created(gpu), ...gpu.pool.stats() };
    for (let i = 0; i < 100; i++) step();
    await gpu.sync();
    expect({ ...created(gpu), ...gpu.pool.stats() }).toEqual(before);
  });
});

describe('readback ring', () => {
  /** A program that counts its own runs. */
  async function counter(on: Tape) {
    const count = tensor(on, [0], [1], { label: 'count' });
    let next: Tensor | undefined;
    const program = await on.gpu
      .capture(() => {
        next = add(count, 1);
        copyInto(count, next);
        return [next.storage];
      })
      .build();
    return { program, watched: [next!.storage, count.storage] };
  }

  test.each([1, 2, 3, 7])('%d slots: every value arrives once, in order', async (depth) => {
    const { program, watched } = await counter(tape);
    const seen: number[][] = [];
    const ring = new ReadbackRing(gpu, watched, { depth, onValues: (v) => seen.push([...v]) });
    for (let i = 0; i < 25; i++) {
      await ring.ready();
      program.run(ring);
      expect(i + 1 - seen.length).toBeLessThanOrEqual(depth);
    }
    await ring.drain();
    expect(seen).toEqual(Array.from({ length: 25 }, (_u, i) => [i + 1, i + 1]));
    ring.destroy();
    program.destroy();
  });

  test('a run without a free slot is a mistake of the caller', async () => {
    const { program, watched } = await counter(tape);
    const ring = new ReadbackRing(gpu, watched, { depth: 1, onValues: () => undefined });
    program.run(ring);
    expect(() => {
      program.run(ring);
    }).toThrow('readback ring is full: await ready() before each run');
    await ring.drain();
    ring.destroy();
  });

  test('an error in the receiver reaches whoever waits', async () => {
    const { program, watched } = await counter(tape);
    const ring = new ReadbackRing(gpu, watched, {
      onValues: () => {
        throw new Error('the receiver failed');
      },
    });
    program.run(ring);
    await expect(ring.drain()).rejects.toThrow('the receiver failed');
    ring.destroy();
  });

  test('closing the device with values on their way is quiet', async () => {
    const own = await openTestGpu();
    const { program, watched } = await counter(new Tape(own));
    const ring = new ReadbackRing(own, watched, { onValues: () => undefined });
    program.run(ring);
    own.close();
    // an unhandled rejection would fail this file
    await new Promise((resolve) => setTimeout(resolve, 20));
  });
});

describe('failure', () => {
  const spec = (code: string): PipelineSpec => ({
    ...{ key: 'broken[]', name: 'broken', entry: 'main', constants: {}, tensors: ['x'] },
    ...{ access: ['read_write'], immediates: [], code },
  });
  const head = '@group(0) @binding(0) var<storage, read_write> x: array<f32>;\n';
  const good = `${head}@compute @workgroup_size(1) fn main() { x[0] = 5.0; }`;
  const bad = `${head}@compute @workgroup_size(1) fn main() { x[0] = nonsense; }`;

  test('a kernel that does not compile is shown with its line, and forgotten', async () => {
    const failure = gpu.pipelines.prepare([spec(bad)]);
    await expect(failure).rejects.toThrow(/^kernel broken\[\] does not compile\n/);
    await expect(failure).rejects.toThrow('x[0] = nonsense;');
    await expect(failure).rejects.toThrow(/2:\d+ unresolved value 'nonsense'/);
    await gpu.pipelines.prepare([spec(good)]);
    await gpu.sync();
  });

  test('an uncaptured error is fatal at the next wait, and at every later one', async () => {
    const own = await openTestGpu();
    const x = own.alloc(4, 'x');
    const grid = [1, 1, 1] as const;
    const immediates = new Uint32Array();
    own.launch({
      spec: spec(bad),
      storages: [x],
      immediates,
      grid,
      flops: 0,
      traffic: 0,
      dims: {},
      where: own.where,
    });
    await expect(own.sync()).rejects.toThrow(/^GPU GPUValidationError: .*nonsense/s);
    await expect(own.sync()).rejects.toThrow(/^GPU GPUValidationError: /);
    await expect(own.read(x)).rejects.toThrow(/^GPU GPUValidationError: /);
  });

  test('a lost device ends every wait with its reason', async () => {
    const own = await openTestGpu();
    const pending = own.wait(new Promise<never>(() => undefined));
    const failed = expect(pending).rejects.toThrow(/^the GPU device was lost \(destroyed\): /);
    own.device.destroy();
    await failed;
    await expect(own.sync()).rejects.toThrow('the GPU device was lost');
  });

  test('closing is no loss, and closing twice is closing once', async () => {
    const own = await openTestGpu();
    const waiting = own.wait(new Promise((resolve) => setTimeout(resolve, 50, 'through')));
    own.close();
    own.close();
    expect(await waiting).toBe('through');
    expect(own.pool.stats()).toMatchObject({ liveBytes: 0, heldBytes: 0, liveBlocks: 0 });
  });
});

describe('polling', () => {
  test('a long wait on a software adapter leaves it the cores', async ({ skip }) => {
    if (gpu.adapter.kind !== 'software') skip('the adapter is no software driver');
    const before = deferredPolls();
    const a = tensor(tape, randomFloats(384 * 384, 1), [384, 384]);
    let product = a;
    for (let i = 0; i < 4; i++) product = matmul(product, a, { alpha: 0.1 });
    const values = await product.read();
    expect(values.every((x) => Number.isFinite(x))).toBe(true);
    expect(deferredPolls()).toBeGreaterThan(before);
  });
});

test('no test of this file wrote outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
