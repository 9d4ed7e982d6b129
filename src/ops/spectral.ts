import { to } from '../autograd/cast.ts';
import { at, defineOp, once, only } from '../autograd/op.ts';
import { bytesOf, tensor } from '../autograd/tensor.ts';
import type { FloatType, Tensor } from '../autograd/tensor.ts';
import {
  powerIteration,
  spectralBackward,
  spectralScale,
  spectralTable,
} from '../kernels/spectral.ts';
import type { MatrixBatch, PlacedMatrix } from '../kernels/spectral.ts';
import { dim, sizeOf } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import { reshape } from './layout.ts';
import { div, mul } from './pointwise.ts';
import { sum } from './reduce.ts';

/** A weight as the matrix [rows, outer·inner] whose largest singular value is normalised away. */
export interface SpectralSizes {
  readonly outer: number;
  readonly rows: number;
  readonly inner: number;
}

/** Rows are the axis `axis` of the weight: 0, and 1 for a transposed convolution (the output channels). */
export function spectralSizes(shape: Shape, axis: number): SpectralSizes {
  return {
    outer: sizeOf(shape.slice(0, axis)),
    rows: dim(shape, axis),
    inner: sizeOf(shape.slice(axis + 1)),
  };
}

/** Spectral norms that are taken together: what the kernels know of them. */
export interface SpectralPlan {
  readonly matrices: readonly PlacedMatrix[];
  /** Of more than one: where each lies in the buffer that all share. */
  readonly table?: Tensor;
}

type Gpu = Tensor['gpu'];
type Storage = Tensor['storage'];

interface IterationAttrs extends SpectralPlan {
  readonly eps: number;
  readonly update: boolean;
}

/** Tensors of one element type, one a matrix, and by which of a matrix's places they lie where they lie together. */
interface Placed {
  readonly of: readonly Tensor[];
  readonly by: 'at' | 'u' | 'v';
}

/** Calls `launch` once for all matrices if everything lies by the plan's table, or can be laid so, and once each if not. */
function overMatrices<K extends string>(
  gpu: Gpu,
  { matrices, table, indices }: SpectralPlan & { indices?: readonly number[] },
  tensors: Readonly<Record<K, Placed>>,
  launch: (storages: Record<K, Storage>, batch: MatrixBatch) => void,
): void {
  const each = Object.entries<Placed>(tensors);
  const pick = (storageOf: (placed: Placed) => Storage | undefined) => {
    const found: Partial<Record<K, Storage>> = {};
    for (const [name, placed] of each) {
      const storage = storageOf(placed);
      if (storage === undefined) return undefined;
      found[name as K] = storage;
    }
    return found as Record<K, Storage>;
  };
  if (table !== undefined) {
    const rows = pick(({ of, by }) =>
      gpu.together(
        of.map((t) => t.storage),
        matrices.map((m) => bytesOf(m[by], at(of, 0).dtype)),
      ),
    );
    if (rows !== undefined) {
      launch(rows, { matrices, table: table.storage });
      return;
    }
  }
  matrices.forEach((matrix, i) => {
    const alone = pick(({ of }) => at(of, i).storage);
    if (alone !== undefined) launch(alone, { matrices: [matrix], index: indices?.[i] ?? i });
  });
}

/**
 * v ← Wᵀu/‖Wᵀu‖, u ← Wv/‖Wv‖ in place if `update`; σ = uᵀWv. Inputs: the weights, the u's, the v's. Outputs: all σ, and
 * this call's own copies of the u's and the v's.
 */
const iterationOp = defineOp<IterationAttrs>({
  name: 'powerIteration',
  infer: (_inputs, { matrices }) => [
    { shape: [matrices.length] },
    ...matrices.map(({ rows }) => ({ shape: [rows] })),
    ...matrices.map(({ outer, inner }) => ({ shape: [outer * inner] })),
  ],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { eps, update } = attrs;
    const [w, u, v] = third(inputs);
    const [uOut, vOut] = halves(outputs.slice(1));
    const sigma = at(outputs, 0).storage;
    const placed: Record<'w' | 'u' | 'v' | 'uOut' | 'vOut', Placed> = {
      w: { of: w, by: 'at' },
      u: { of: u, by: 'u' },
      v: { of: v, by: 'v' },
      uOut: { of: uOut, by: 'u' },
      vOut: { of: vOut, by: 'v' },
    };
    overMatrices(gpu, attrs, placed, (storages, batch) => {
      powerIteration(gpu, { ...storages, sigma, batch, eps, update });
    });
  },
});

interface NormalizeAttrs extends SpectralPlan {
  /** Of the results. */
  readonly dtype: FloatType;
}

/** Ŵ = W/σ with σ = uᵀWv and u, v held still:  dW = (dŴ − Σ(dŴ∘W)/σ · uvᵀ)/σ. Inputs: weights, σ, u's, v's. */
const normalizeOp = defineOp<NormalizeAttrs>({
  name: 'spectralNorm',
  infer: (inputs, { matrices, dtype }) =>
    matrices.map((_m, i) => ({ shape: at(inputs, i).shape, dtype })),
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { w, sigma } = normalParts(inputs, attrs);
    const placed: Record<'w' | 'out', Placed> = {
      w: { of: w, by: 'at' },
      out: { of: outputs, by: 'at' },
    };
    overMatrices(gpu, attrs, placed, (storages, batch) => {
      spectralScale(gpu, { ...storages, sigma: sigma.storage, batch, stored: attrs.dtype });
    });
  },
  saves: (inputs) => inputs,
  backward: ({ grads, saved, attrs }) => {
    const { w, sigma, u, v } = normalParts(saved, attrs);
    const indices = attrs.matrices.map((_m, i) => i).filter((i) => grads[i] !== undefined);
    const of = (list: readonly Tensor[]) => indices.map((i) => at(list, i));
    const dwn = indices.map((i) => to(at(grads, i) as Tensor, 'f32'));
    const matrices = indices.map((i) => at(attrs.matrices, i));
    const whole = matrices.length === attrs.matrices.length ? attrs : {};
    const all = once(() =>
      spectralBackwardOp([...of(w), sigma, ...of(u), ...of(v), ...dwn], {
        ...whole,
        matrices,
        indices,
      }),
    );
    return w.map((_w, i) =>
      grads[i] === undefined ? undefined : () => at(all(), indices.indexOf(i)),
    );
  },
  composition: (inputs, attrs) => {
    const { w, u, v } = normalParts(inputs, attrs);
    return attrs.matrices.map(({ outer, rows, inner }, i) => {
      const uvT = mul(reshape(at(u, i), [1, rows, 1]), reshape(at(v, i), [outer, 1, inner]));
      const matrix = reshape(at(w, i), [outer, rows, inner]);
      return to(reshape(div(matrix, sum(mul(matrix, uvT))), at(w, i).shape), attrs.dtype);
    });
  },
});

/** As normalizeOp's inputs, then the gradients of its outputs → the gradients of the weights. */
const spectralBackwardOp = defineOp<SpectralPlan & { readonly indices: readonly number[] }>({
  name: 'spectralBackward',
  infer: (inputs, { matrices }) => matrices.map((_m, i) => ({ shape: at(inputs, i).shape })),
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { w, sigma, u, v } = normalParts(inputs, attrs);
    const dwn = inputs.slice(-attrs.matrices.length);
    const placed: Record<'w' | 'u' | 'v' | 'dwn' | 'dw', Placed> = {
      w: { of: w, by: 'at' },
      u: { of: u, by: 'u' },
      v: { of: v, by: 'v' },
      dwn: { of: dwn, by: 'at' },
      dw: { of: outputs, by: 'at' },
    };
    overMatrices(gpu, attrs, placed, (storages, batch) => {
      spectralBackward(gpu, { ...storages, sigma: sigma.storage, batch });
    });
  },
});

function normalParts(inputs: readonly Tensor[], { matrices: { length } }: SpectralPlan) {
  const from = (first: number) => inputs.slice(first, first + length);
  return { w: from(0), sigma: at(inputs, length), u: from(length + 1), v: from(2 * length + 1) };
}

function halves<T>(list: readonly T[]): [T[], T[]] {
  return [list.slice(0, list.length / 2), list.slice(list.length / 2)];
}

function third<T>(list: readonly T[]): [T[], T[], T[]] {
  const n = list.length / 3;
  return [list.slice(0, n), list.slice(n, 2 * n), list.slice(2 * n)];
}

/** A weight to normalise. */
export interface SpectralLayer {
  readonly weight: Tensor;
  /** Persistent [rows] and [cols] vectors, moved in place while training. */
  readonly u: Tensor;
  readonly v: Tensor;
  /** Axis of the rows. */
  readonly axis: number;
}

export interface SpectralOptions {
  readonly update: boolean;
  readonly eps?: number;
  /** Made by `planSpectra` of the same layers; left out: each layer by itself. */
  readonly plan?: SpectralPlan | undefined;
  /** Element type of the normalised weights; what they are made from is f32. Default f32. */
  readonly dtype?: FloatType | undefined;
}

function matrixOf({ weight, axis }: SpectralLayer): PlacedMatrix {
  return { ...spectralSizes(weight.shape, axis), at: 0, u: 0, v: 0 };
}

/**
 * A plan by which all layers are normalised in the launches of one, if their weights lie in one buffer, their u's in
 * another and their v's in a third (`Spectra` in nn); undefined otherwise. Holds a small table on the device for good.
 */
export function planSpectra(layers: readonly SpectralLayer[]): SpectralPlan | undefined {
  const tape = layers[0]?.weight.tape;
  const offsets = (of: (layer: SpectralLayer) => Tensor) =>
    tape?.gpu.offsets(layers.map((layer) => of(layer).storage));
  const [w, u, v] = [offsets((l) => l.weight), offsets((l) => l.u), offsets((l) => l.v)];
  if (tape === undefined || layers.length < 2 || !w || !u || !v) return undefined;
  const matrices = layers.map((layer, i) => ({
    ...matrixOf(layer),
    ...{ at: at(w, i) / 4, u: at(u, i) / 4, v: at(v, i) / 4 },
  }));
  const words = spectralTable(tape.gpu, matrices);
  return { matrices, table: tensor(tape, words, [words.length], { label: 'spectral norms' }) };
}

/** Weights divided by their spectral norms, in the order of their layers, and those norms (n) f32. */
export interface Normalized {
  readonly weights: readonly Tensor[];
  readonly sigma: Tensor;
}

/**
 * W/σ(W) of every layer, with σ estimated by one power iteration, as torch.nn.utils.spectral_norm: gradients flow through
 * σ and W, not through u and v. One launch a step of it for all layers where `plan` allows, in a captured program; the bits
 * are the same without.
 */
export function spectralNormalizeAll(
  layers: readonly SpectralLayer[],
  { update, eps = 1e-12, plan, dtype = 'f32' }: SpectralOptions,
): Normalized {
  const attrs = plan ?? { matrices: layers.map(matrixOf) };
  const weights = layers.map((l) => l.weight);
  const state = [...layers.map((l) => l.u), ...layers.map((l) => l.v)];
  const found = iterationOp([...weights.map((w) => w.detach()), ...state], {
    ...attrs,
    eps,
    update,
  });
  return {
    weights: normalizeOp([...weights, ...found], { ...attrs, dtype }),
    sigma: at(found, 0),
  };
}

/** `spectralNormalizeAll` of one weight. */
export function spectralNormalize(
  weight: Tensor,
  options: Omit<SpectralLayer, 'weight'> & Omit<SpectralOptions, 'plan'>,
): Tensor {
  const { u, v, axis, ...rest } = options;
  return only(spectralNormalizeAll([{ weight, u, v, axis }], rest).weights);
}
