// Storages side by side in one buffer: moved there for good, or laid so by a captured step's plan; what one launch over
// all of them does is what a launch each would have done.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { fill, total, unary } from '../../src/kernels/pointwise.ts';
import { copyInto } from '../../src/ops/copy.ts';
import { add, mul, square } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { Adam } from '../../src/optim/adam.ts';
import { SGD } from '../../src/optim/sgd.ts';
import { openTestGpu } from '../support/device.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const sizes = [1, 7, 64, 65, 300];

const parameters = (seed: number) =>
  sizes.map((n, i) =>
    tensor(tape, Float32Array.from(randomData(n, seed + i)), [n], {
      label: `p${i}`,
      requiresGrad: true,
    }),
  );
const join = (tensors: readonly Tensor[]) => {
  gpu.join(
    tensors.map((t) => t.storage),
    'row',
  );
};
const together = (tensors: readonly Tensor[]) => gpu.together(tensors.map((t) => t.storage));
const readAll = (tensors: readonly Tensor[]) => Promise.all(tensors.map((t) => t.read()));

describe('storages moved into one buffer', () => {
  test('keep their values, are read and written alone and as one', async () => {
    const row = parameters(1);
    const before = await readAll(row);
    expect(together(row)).toBeUndefined();
    join(row);
    expect(await readAll(row)).toEqual(before);
    row[2]!.set(new Float32Array(64).fill(3));
    const span = together(row)!;
    const versions = row.map((t) => t.storage.version);
    unary(gpu, 'affine', {
      x: span,
      out: span === row[0]!.storage ? span : span,
      n: 0,
      a: 2,
      b: 0,
    });
    const doubled = gpu.alloc(span.bytes, 'doubled');
    unary(gpu, 'affine', { x: span, out: doubled, n: span.bytes / 4, a: 2, b: 0 });
    const values = new Float32Array(await gpu.read(doubled));
    expect(values.subarray(0, 1)).toEqual(before[0]!.map((x) => 2 * x));
    expect(values.subarray(256, 320)).toEqual(new Float32Array(64).fill(6));
    fill(gpu, { out: span, n: span.bytes / 4, value: 5 });
    expect(row.map((t) => t.storage.version)).toEqual(versions.map((v) => v + 1));
    for (const [i, found] of (await readAll(row)).entries()) {
      expect(found).toEqual(new Float32Array(sizes[i]!).fill(5));
    }
  });

  test('are one only as neighbours in their order', () => {
    const row = parameters(2);
    join(row);
    expect(together(row.slice(1, 3))).toBeDefined();
    expect(together([row[0]!, row[2]!])).toBeUndefined();
    expect(together([row[1]!, row[0]!])).toBeUndefined();
    expect(together([...row, parameters(3)[0]!])).toBeUndefined();
  });

  test('one is copied into another', async () => {
    const row = [1, 2].map((seed) => tensor(tape, Float32Array.from(randomData(9, seed)), [9]));
    join(row);
    copyInto(row[1]!, row[0]!);
    const [from, to] = await readAll(row);
    expect(to).toEqual(from);
  });
});

describe('storages of a captured step', () => {
  /** Writes i + 1 into each of some tensors, and what all of them as one are, doubled. */
  const step = (order: readonly number[]) => {
    const parts = sizes.map((n) => gpu.alloc(4 * n, 'part'));
    parts.forEach((out, i) => {
      fill(gpu, { out, n: sizes[i]!, value: i + 1 });
    });
    const span = gpu.together(order.map((i) => parts[i]!));
    return { parts, span };
  };

  test('are laid side by side, and are somebody else’s after the program', async () => {
    let made: ReturnType<typeof step> | undefined;
    let doubled = gpu.alloc(4, 'none');
    const capture = gpu.capture(() => {
      made = step([3, 1, 4]);
      doubled = gpu.alloc(made.span!.bytes, 'doubled');
      total(gpu, { terms: [made.span!, made.span!], out: doubled, n: doubled.bytes / 4 });
      return [doubled, made.parts[0]!];
    });
    const program = await capture.build();
    program.run();
    const values = new Float32Array(await gpu.read(doubled));
    expect([values[0], values[64], values[128], values[256]]).toEqual([8, 8, 4, 10]);
    program.destroy();
    expect(made!.parts.every((part) => part.block === undefined)).toBe(true);
  });

  test('not twice the same, not out of their order, not what is real', () => {
    gpu.capture(() => {
      const { parts, span } = step([0, 1, 2]);
      expect(span).toBeDefined();
      expect(gpu.together([parts[0]!, parts[1]!])).toBeDefined();
      expect(gpu.together([parts[1]!, parts[0]!])).toBeUndefined();
      expect(gpu.together([parts[3]!, parts[3]!])).toBeUndefined();
      expect(gpu.together([parts[3]!, parameters(4)[0]!.storage])).toBeUndefined();
      return [];
    });
  });

  test('beside what lies there already, in its gaps and behind it', () => {
    gpu.capture(() => {
      const { parts } = step([]);
      const [a, b, c, d] = [parts[1]!, parts[2]!, parts[0]!, parts[3]!];
      expect(gpu.together([a, b], [0, 1024])).toBeDefined();
      // 1024 is taken, 512 is free, and so is everything from 1536 on
      expect(gpu.together([a, c], [0, 1024])).toBeUndefined();
      expect(gpu.together([b, c], [1024, 0])).toBeUndefined();
      expect(gpu.together([a, c, b, d])).toBeDefined();
      return [];
    });
  });

  test('not where a launch reads one and writes another', () => {
    gpu.capture(() => {
      const { parts } = step([]);
      const [a, b, c] = [parts[0]!, parts[1]!, parts[2]!];
      unary(gpu, 'copy', { x: a, out: b, n: 1 });
      expect(gpu.together([a, b])).toBeUndefined();
      expect(gpu.together([a, c])).toBeDefined();
      return [];
    });
    expect(() =>
      gpu.capture(() => {
        const { parts } = step([0, 1]);
        unary(gpu, 'copy', { x: parts[0]!, out: parts[1]!, n: 1 });
        return [];
      }),
    ).toThrow('pointwise/unary reads and writes part and 1 more, which lie in one buffer');
  });
});

describe('optimisers over parameters in one buffer', () => {
  const makers = {
    Adam: (params: [string, Tensor][], ema: Map<string, Tensor>) =>
      new Adam(tape, [{ params, ema }], { lr: 0.01, weightDecay: 0.1 }),
    SGD: (params: [string, Tensor][], ema: Map<string, Tensor>) =>
      new SGD(tape, [{ params, ema }], { lr: 0.01, momentum: 0.9 }),
  };

  async function train(
    make: (typeof makers)['Adam' | 'SGD'],
    how: { joined: boolean; captured: boolean },
  ) {
    const [params, averages] = [parameters(5), parameters(5)];
    if (how.joined) for (const row of [params, averages]) join(row);
    const names = params.map((p): [string, Tensor] => [p.label, p]);
    const optimizer = make(names, new Map(averages.map((t) => [t.label, t])));
    const body = () => {
      const loss = params.map((p) => sum(square(mul(p, p)))).reduce((a, b) => add(a, b));
      optimizer.step(grad([loss], params));
      return [];
    };
    let launches = 0;
    if (how.captured) {
      const capture = gpu.capture(body);
      launches = capture.dispatches.filter((d) => d.spec.name.startsWith('optim/')).length;
      const program = await capture.build();
      for (let i = 0; i < 3; i++) program.run();
    } else for (let i = 0; i < 3; i++) gpu.scope(body);
    const state = [...optimizer.namedState()].map(([, t]) => t);
    return { launches, values: await readAll([...params, ...averages, ...state]) };
  }

  test.each(['Adam', 'SGD'] as const)('%s: one launch, the same bits', async (name) => {
    const make = makers[name];
    const apart = await train(make, { joined: false, captured: true });
    const one = await train(make, { joined: true, captured: true });
    expect(one.values).toEqual(apart.values);
    expect((await train(make, { joined: true, captured: false })).values).toEqual(apart.values);
    const each = name === 'Adam' ? 1 : 2;
    expect(apart.launches).toBe(1 + each * sizes.length);
    expect(one.launches).toBe(1 + each);
  });
});
