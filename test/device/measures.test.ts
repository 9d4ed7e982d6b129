// What a step measures of itself: the norm of all its gradients, and how its made images differ.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { empty, tensor } from '../../src/autograd/tensor.ts';
import { constOf } from '../../src/gpu/wgsl.ts';
import { diversity as diversityKernel } from '../../src/kernels/diversity.ts';
import { gradientNorm } from '../../src/kernels/gradient-norm.ts';
import { sourceOf } from '../../src/kernels/kernel.ts';
import { scalerIndex, scalerWords, validOf } from '../../src/kernels/optim.ts';
import { diversity } from '../../src/ops/diversity.ts';
import { add, mul } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { Adam } from '../../src/optim/adam.ts';
import { diversity as diversityReference, norm } from '../reference/measures.ts';
import { budget, divideAllowance, f32, f64, sqrtAllowance } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits, wordsOf } from '../support/execute.ts';
import { kept, randomHalves, storedOn } from '../support/half.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

describe('the norm of gradients', () => {
  /** Rows in which tensors of these lengths begin at multiples of 128; the gaps hold NaN. */
  function rowOf(lengths: readonly number[], seed: number) {
    const tensors: { from: number; n: number }[] = [];
    let end = 0;
    for (const n of lengths) {
      tensors.push({ from: end, n });
      end = Math.ceil((end + n) / 128) * 128;
    }
    const last = tensors.at(-1)!;
    const g = new Float32Array(last.from + last.n).fill(NaN);
    tensors.forEach(({ from, n }, i) => g.set(Float32Array.from(randomData(n, seed + i)), from));
    const values = tensors.flatMap(({ from, n }) => [...g.subarray(from, from + n)]);
    return { g, valid: validOf(tensors), values };
  }

  async function measured(
    rows: readonly ReturnType<typeof rowOf>[],
    state?: Float32Array<ArrayBuffer>,
  ) {
    const contents: Record<string, Float32Array | Uint32Array | number> = { norm: 1 };
    if (state !== undefined) contents['scaler'] = state;
    rows.forEach(({ g, valid }, i) => {
      contents[`g${i}`] = g;
      contents[`valid${i}`] = valid;
    });
    return execute(
      gpu,
      contents,
      (s) => {
        const launched = rows.map(({ g }, i) => ({
          ...{ g: s[`g${i}`]!, valid: s[`valid${i}`]!, n: g.length },
        }));
        gradientNorm(gpu, { rows: launched, norm: s['norm']!, scaler: s['scaler'] });
      },
      ['norm'],
    );
  }

  const close = (actual: ArrayLike<number>, values: readonly number[], scale = 1) => {
    const [exact, naive] = [norm(values, f64) / scale, norm(values, f32) / scale];
    const allowance = sqrtAllowance(exact) + divideAllowance(exact);
    expectClose(actual, [exact], budget([exact], [naive], { allowance }), 'norm');
  };

  test.each([[[1]], [[130, 1, 128]], [[8192]], [[8193, 70]], [[40_000, 3]]])(
    'of tensors of %j in a row, whose gaps hold NaN',
    async (lengths) => {
      const row = rowOf(lengths, 1);
      close((await measured([row])).norm, row.values);
    },
  );

  test('of several rows', async () => {
    const rows = [rowOf([70, 9000], 1), rowOf([5], 9), rowOf([300], 20)];
    close(
      (await measured(rows)).norm,
      rows.flatMap(({ values }) => values),
    );
    await expectSameBits(() => measured(rows));
  });

  test('without the loss scale, and 0 for a step that is left out', async () => {
    const row = rowOf([130, 7], 3);
    const state = new Float32Array(scalerWords);
    state[scalerIndex.scale] = 1024;
    close((await measured([row], state)).norm, row.values, 1024);
    wordsOf(state)[scalerIndex.found] = 1;
    row.g[0] = Infinity;
    expect([...(await measured([row], state)).norm]).toEqual([0]);
  });

  test('the words of the scaler are those of the wrapper', () => {
    for (const name of ['scale', 'found'] as const) {
      expect(constOf(sourceOf('optim/norm.wgsl'), name.toUpperCase())).toBe(scalerIndex[name]);
    }
  });

  test.each(['eager', 'replayed'] as const)('by an optimiser, %s', async (mode) => {
    const leaf = (n: number, seed: number) =>
      tensor(tape, Float32Array.from(randomData(n, seed)), [n], { requiresGrad: true });
    const [a, b, c] = [leaf(70, 1), leaf(33, 2), leaf(5, 3)];
    gpu.join([a.storage, b.storage], 'parameters');
    const optimizer = new Adam(tape, [
      { params: [['a', a]] },
      { params: Object.entries({ b, c }) },
    ]);
    const factors = [leaf(70, 4), leaf(33, 5), leaf(5, 6)] as const;
    const step = () => {
      const loss = add(
        add(sum(mul(factors[0], a)), sum(mul(factors[1], b))),
        sum(mul(factors[2], c)),
      );
      const found = empty(tape, [], { label: 'norm' });
      optimizer.step(grad([loss], [a, b, c]), { norm: found });
      return found;
    };
    const values = (await Promise.all(factors.map((f) => f.read()))).flatMap((f) => [...f]);
    if (mode === 'eager') {
      const found = gpu.scope(step, (t) => [t.storage]);
      close(await found.read(), values);
      return;
    }
    let found: ReturnType<typeof step> | undefined;
    const program = await gpu.capture(() => [(found = step()).storage]).build();
    program.run();
    close(await found!.read(), values);
    program.destroy();
  });
});

describe('the diversity of images', () => {
  const sizes = [
    { n: 2, m: 1 },
    { n: 3, m: 65 },
    { n: 16, m: 3 * 7 * 5 },
    { n: 5, m: 4200 },
  ];
  test.each(sizes.flatMap((size) => storedOn(gpu).map((stored) => ({ ...size, stored }))))(
    'is the ratio of root mean square distances: $n images of $m pixels, $stored',
    async ({ n, m, stored }) => {
      const { content } = kept[stored];
      const real = randomHalves(n * m, 1);
      const fake = randomHalves(n * m, 2).map((x) => x / 2);
      const { out } = await execute(
        gpu,
        { real: content(real), fake: content(fake), out: 1 },
        (s) => {
          diversityKernel(gpu, { ...s, N: n, M: m, stored });
        },
        ['out'],
      );
      const [exact, naive] = [f64, f32].map((r) => diversityReference(real, fake, n, r));
      const allowance = sqrtAllowance(exact!) + divideAllowance(exact!);
      expectClose(out, [exact!], budget([exact!], [naive!], { allowance }), 'diversity');
    },
  );

  test('is 0 of images that are all the same, and 1 where the real ones do not differ', async () => {
    const some = tensor(tape, Float32Array.from(randomData(12, 1)), [3, 4]);
    const same = tensor(tape, new Float32Array(12).fill(0.3), [3, 4]);
    expect(await diversity(some, same).item()).toBe(0);
    expect(await diversity(same, some).item()).toBe(1);
    expect(await diversity(some, some).item()).toBe(1);
  });

  test('refuses what has no pairs', () => {
    const batch = (shape: number[]) =>
      tensor(tape, new Float32Array(shape.reduce((a, b) => a * b)), shape);
    expect(() => diversity(batch([3, 4]), batch([2, 4]))).toThrow(
      'diversity: real is [3, 4] but fake is [2, 4]; the shapes must agree',
    );
    expect(() => diversity(batch([1, 4]), batch([1, 4]))).toThrow('one image is no batch');
  });
});
