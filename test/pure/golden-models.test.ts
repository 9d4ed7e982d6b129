// The references against PyTorch where they are composed: second derivatives, the attention blocks, ten steps of SAGAN.
import { beforeAll, describe, expect, it } from 'vitest';
import { type GoldenCase, loadGolden, loadGoldenCases } from '../golden/load.ts';
import { type Attention, attention, attentionBackward } from '../reference/attention.ts';
import {
  type Conv2d,
  conv2d,
  conv2dBackward,
  type ConvTranspose2d,
  convTranspose2d,
  convTranspose2dBackward,
} from '../reference/conv.ts';
import { type Matmul, matmul, matmulBackward } from '../reference/matmul.ts';
import { budget, type Data, f32, f64, maxAbs } from '../reference/naive.ts';
import { type BatchNorm, batchNorm, batchNormBackward } from '../reference/norm.ts';
import { unary, unaryBackward } from '../reference/pointwise.ts';
import { reduce, reduceBackward } from '../reference/reduce.ts';
import {
  makeNet,
  NOISE_BOUND,
  noiseDriven,
  paperAttention,
  runSmallSagan,
  type SaganRun,
  selfAttention,
} from '../reference/sagan.ts';
import { softmax, softmaxBackward } from '../reference/softmax.ts';
import { expectClose } from '../support/close.ts';
import { centralDifference } from '../support/gradient.ts';
import { randomData } from '../support/random.ts';
import { rounding } from '../support/rounding.ts';

type Named = Record<string, Float64Array>;

interface Op {
  readonly f: (t: Named) => Float64Array;
  /** First gradients of Σ f·dy, one an input. */
  readonly grads: (t: Named, dy: Data) => Named;
}

/** The references behind each case of double_backward, by the case's parameters. */
function opOf(name: string, p: object): Op {
  if (name.startsWith('conv2d')) {
    const of = (t: Named) => ({ ...p, ...t }) as unknown as Conv2d;
    return {
      f: (t) => conv2d(of(t), f64),
      grads: (t, dy) => {
        const g = conv2dBackward(of(t), dy, f64);
        return { x: g.dx, w: g.dw, bias: g.dbias };
      },
    };
  }
  if (name === 'conv_transpose2d') {
    const of = (t: Named) => ({ ...p, ...t }) as unknown as ConvTranspose2d;
    return {
      f: (t) => convTranspose2d(of(t), f64),
      grads: (t, dy) => {
        const g = convTranspose2dBackward(of(t), dy, f64);
        return { x: g.dx, w: g.dw };
      },
    };
  }
  if (name === 'matmul') {
    const of = (t: Named) => ({ ...p, ...t }) as unknown as Matmul;
    return {
      f: (t) => matmul(of(t), f64),
      grads: (t, dy) => {
        const g = matmulBackward(of(t), dy, f64);
        return { a: g.da, b: g.db };
      },
    };
  }
  if (name === 'softmax') {
    const of = (t: Named) => ({ ...(p as { rows: number; cols: number }), x: t.x! });
    return {
      f: (t) => softmax(of(t), f64),
      grads: (t, dy) => ({ x: softmaxBackward(of(t), dy, f64).dx }),
    };
  }
  if (name.startsWith('attention')) {
    const of = (t: Named) => ({ ...p, ...t }) as unknown as Attention;
    return {
      f: (t) => attention(of(t), f64).o,
      grads: (t, dy) => {
        const g = attentionBackward(of(t), dy, f64);
        return { q: g.dq, k: g.dk, v: g.dv };
      },
    };
  }
  if (name === 'batch_norm') {
    const of = (t: Named) => ({ ...p, ...t }) as unknown as BatchNorm;
    return {
      f: (t) => batchNorm(of(t), f64).y,
      grads: (t, dy) => {
        const g = batchNormBackward(of(t), dy, f64);
        return { x: g.dx, gamma: g.dgamma, beta: g.dbeta };
      },
    };
  }
  if (name === 'leaky_relu_squared') {
    const { slope } = p as { slope: number };
    const inner = (x: Data) => unary('leakyRelu', { x, slope }, f64);
    return {
      f: (t) => unary('square', { x: inner(t.x!) }, f64),
      grads: (t, dy) => {
        const mid = unaryBackward('square', { x: inner(t.x!) }, dy, f64).dx;
        return { x: unaryBackward('leakyRelu', { x: t.x!, slope }, mid, f64).dx };
      },
    };
  }
  if (name === 'tanh' || name === 'sigmoid' || name === 'softplus') {
    return {
      f: (t) => unary(name, { x: t.x! }, f64),
      grads: (t, dy) => ({ x: unaryBackward(name, { x: t.x! }, dy, f64).dx }),
    };
  }
  const where = p as { shape: number[]; axes: number[] };
  if (name === 'mean_of_squares') {
    const square = (x: Data) => unary('square', { x }, f64);
    return {
      f: (t) => reduce('mean', { ...where, x: square(t.x!) }, f64),
      grads: (t, dy) => {
        const mid = reduceBackward('mean', { ...where, x: square(t.x!) }, dy, f64).dx;
        return { x: unaryBackward('square', { x: t.x! }, mid, f64).dx };
      },
    };
  }
  if (name === 'square_of_mean') {
    const mean = (x: Data) => reduce('mean', { ...where, x }, f64);
    return {
      f: (t) => unary('square', { x: mean(t.x!) }, f64),
      grads: (t, dy) => {
        const mid = unaryBackward('square', { x: mean(t.x!) }, dy, f64).dx;
        return { x: reduceBackward('mean', { ...where, x: t.x! }, mid, f64).dx };
      },
    };
  }
  throw new Error(`double_backward: no reference for case ${name}`);
}

function squares(x: Float64Array): number {
  return x.reduce((s, a) => s + a * a, 0);
}

/** Inputs of a case under their names, in float64. */
function tensorsOf(golden: GoldenCase<object>, names: readonly string[]): Named {
  return Object.fromEntries(names.map((name) => [name, Float64Array.from(golden.get(name))]));
}

describe('double_backward', () => {
  const cases = loadGoldenCases<{ inputs: string[] }>('double_backward');
  it.each(cases)('$name', (golden) => {
    const { inputs, ...params } = golden.params;
    const op = opOf(golden.name, params);
    const names = [...inputs, 'dy'];
    const all = tensorsOf(golden, names);
    const { dy, ...given } = all;
    const y = op.f(given);
    expectClose(golden.get('y'), y, rounding(y), 'y');
    const first = op.grads(given, dy!);
    for (const name of inputs) {
      expectClose(golden.get(`grad.${name}`), first[name]!, rounding(first[name]!), `grad ${name}`);
    }
    const energy = (...xs: Float64Array[]) => {
      const t = Object.fromEntries(names.map((name, i) => [name, xs[i]!]));
      const g = op.grads(t, t.dy!);
      return inputs.reduce((s, name) => s + squares(g[name]!), 0);
    };
    const point = names.map((name) => all[name]!);
    // truncation eps²·third derivative, cancellation 2⁻⁵³·energy/eps
    const noise = (4 * 2 ** -53 * energy(...point)) / 1e-5;
    names.forEach((name, which) => {
      const second = golden.get(`second.${name}`);
      const expected = centralDifference(energy, point, which);
      const abs = noise + 1e-8 * (1 + maxAbs(second));
      expectClose(second, expected, { abs, rel: 2 ** -24 }, `second ${name}`);
    });
  });
});

describe('self_attention_blocks', () => {
  const cases = loadGoldenCases<{ B: number; C: number; H: number; W: number; scale: number }>(
    'self_attention_blocks',
  );
  it.each(cases)('$name', (golden) => {
    const { B: N, C, H, W, scale } = golden.params;
    const prefixes = ['grad.', 'second.', 'after.'];
    const values = ['x', 'y', 'dy', 'attention'];
    const state = [...golden.tensors]
      .filter(([key]) => !values.includes(key) && !prefixes.some((p) => key.startsWith(p)))
      .map(([key, t]) => [key, t.data] as const);
    const parameters = state.map(([key]) => key).filter((key) => golden.has(`grad.${key}`));
    expect(parameters.length).toBeGreaterThanOrEqual(5);

    const run = (t: Named, r = f64, buffers: (readonly [string, Data])[] = []) => {
      const given = [...state, ...buffers, ...parameters.map((key) => [key, t[key]!] as const)];
      const net = makeNet(given, r, buffers.length > 0);
      const size = { N, C, H, W };
      const layer = golden.name.startsWith('paper')
        ? paperAttention(net, '', t.x!, size)
        : selfAttention(net, '', t.x!, size, scale);
      return { net, layer, dx: layer.back(t.dy!) };
    };
    const names = ['x', ...parameters, 'dy'];
    const all = tensorsOf(golden, names);
    const { net, layer, dx } = run(all);
    const naive = run(all, f32);
    const same = (name: string, ref: Float64Array, single: Float64Array, scaleOf = maxAbs(ref)) => {
      expectClose(golden.get(name), ref, rounding(ref, scaleOf), name);
      expect(budget(ref, single).abs, name).toBeLessThan(1e-4 * Math.max(1, scaleOf));
    };
    same('y', layer.y, naive.layer.y);
    same('grad.x', dx, naive.dx);
    for (const key of parameters) {
      // the gradient of key_conv.bias is 0 but for rounding: its terms are as large as the others'
      same(`grad.${key}`, net.grads.get(key)!, naive.net.grads.get(key)!, maxAbs(dx));
    }
    const updated = [...golden.tensors.keys()].filter((key) => key.startsWith('after.'));
    expect(updated).toHaveLength(golden.name === 'paper_sn' ? 8 : 0);
    const buffers = updated.map((key) => {
      const buffer = key.slice('after.'.length);
      same(key, net.state.get(buffer)!, naive.net.state.get(buffer)!);
      return [buffer, net.state.get(buffer)!] as const;
    });

    // Second derivatives along random directions: every entry of every golden tensor takes part in each. Spectral norm's u
    // and v are constants to PyTorch, so the difference quotient runs with those of after the forward, frozen.
    const energy = (step: number, direction: Named) => {
      const t = Object.fromEntries(
        names.map((name) => [name, all[name]!.map((a, i) => a + step * direction[name]![i]!)]),
      );
      const at = run(t, f64, buffers);
      return squares(at.dx) + parameters.reduce((s, key) => s + squares(at.net.grads.get(key)!), 0);
    };
    for (const seed of [1, 2, 3, 4]) {
      const direction: Named = Object.fromEntries(
        names.map((name, i) => [name, randomData(all[name]!.length, 100 * seed + i)]),
      );
      const eps = 1e-5;
      const quotient = (energy(eps, direction) - energy(-eps, direction)) / (2 * eps);
      const terms = names.flatMap((name) =>
        Array.from(golden.get(`second.${name}`), (s, i) => s * direction[name]![i]!),
      );
      const expected = terms.reduce((s, a) => s + a, 0);
      const size = Math.sqrt(terms.reduce((s, a) => s + a * a, 0));
      // each golden term carries half an ulp; beside it cancellation and truncation of the quotient
      const abs = 2 ** -24 * size + (4 * 2 ** -53 * energy(0, direction)) / eps + 1e-7 * size;
      expectClose([quotient], [expected], { abs }, `second along direction ${seed}`);
    }
  });
});

describe('sagan_step', () => {
  const golden = loadGolden('sagan_step');
  let exact: SaganRun;
  let naive: SaganRun;
  beforeAll(() => {
    exact = runSmallSagan(golden, 10, f64);
    naive = runSmallSagan(golden, 10, f32);
  }, 120_000);

  /** Golden against the float64 run, and the float32 run near it; `scale` is the size of the terms that make these values. */
  const same = (name: string, ref: Data, single: Data, scale: number, widest: number) => {
    const found = golden.get(name);
    expect(found, name).toBeDefined();
    expectClose(found!.data, ref, rounding(ref, scale), name);
    expect(budget(ref, single).abs, `budget of ${name}`).toBeLessThan(widest);
  };

  it('losses of ten steps', () => {
    same('d_loss', exact.dLoss, naive.dLoss, 1, 1e-4);
    same('g_loss', exact.gLoss, naive.gLoss, 1, 1e-4);
    expect(new Set(exact.dLoss).size).toBe(10);
  });

  it('images and scores of the first step', () => {
    same('fake', exact.fake, naive.fake, 1, 1e-5);
    same('d_real', exact.dReal, naive.dReal, 1, 1e-5);
    same('d_fake', exact.dFake, naive.dFake, 1, 1e-5);
    // both branches of both hinges
    for (const scores of [exact.dReal.map((a) => -a), exact.dFake]) {
      expect(scores.some((a) => a > -1) && scores.some((a) => a < -1)).toBe(true);
    }
  });

  it.each(['d', 'g'] as const)('every gradient of the first step of %s', (which) => {
    const names = [...golden.keys()].filter((key) => key.startsWith(`${which}.grad.`));
    const [of, naiveOf] =
      which === 'd' ? [exact.dGrads, naive.dGrads] : [exact.gGrads, naive.gGrads];
    expect(names.map((name) => name.slice(7)).sort()).toEqual([...of.keys()].sort());
    const scale = Math.max(...[...of.values()].map(maxAbs));
    for (const name of names) {
      const key = name.slice(7);
      same(name, of.get(key)!, naiveOf.get(key)!, scale, 1e-5 * scale);
    }
  });

  it.each(['d', 'g'] as const)('every weight and buffer of %s after ten steps', (which) => {
    const names = [...golden.keys()].filter((key) => key.startsWith(`${which}.final.`));
    expect(names.map((name) => name.slice(8)).sort()).toEqual([...exact[which].keys()].sort());
    for (const name of names) {
      const key = name.slice(8);
      const widest = noiseDriven(which, key) ? NOISE_BOUND[which] : 1e-4;
      same(name, exact[which].get(key)!, naive[which].get(key)!, 1, widest);
    }
  });
});
