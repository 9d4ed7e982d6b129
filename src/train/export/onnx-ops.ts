import type { Tensor } from '../../autograd/tensor.ts';
import type { OnnxNode } from '../../io/onnx.ts';
import type { Activation } from '../../ops/pointwise.ts';
import type { Shape } from '../../util/shape.ts';

export type OnnxAttributes = Pick<OnnxNode, 'results' | 'ints' | 'floats' | 'strings'>;

/** Where rules put what they write. */
export interface GraphWriter {
  /** Adds a node; returns the name of its result. */
  node(op: string, inputs: readonly string[], attributes?: OnnxAttributes): string;
  /** The name of a constant of whole numbers, such as axes. */
  int64(values: readonly number[]): string;
  float(value: number): string;
}

/** One recorded op: a rule is given this, and the op's own attributes. */
export interface OpToWrite {
  readonly graph: GraphWriter;
  /** What the inputs are called in the graph. */
  readonly names: readonly string[];
  readonly inputs: readonly Tensor[];
  /** Sizes of the result: −1 where the batch has a part in one. */
  readonly shape: Shape;
}

/** Returns the name of the op's first result. */
type Rule<A = unknown> = (op: OpToWrite, attrs: A) => string;

/** An op that ONNX has too, with nothing to say besides. */
const as =
  (...ops: readonly string[]): Rule =>
  ({ graph, names }) =>
    ops.slice(1).reduce((name, op) => graph.node(op, [name]), graph.node(ops[0] ?? '', names));

// ---- convolutions and pools -----------------------------------------------------------------------------------------

interface ConvAttrs {
  readonly dims: Readonly<
    Record<'H' | 'W' | 'R' | 'S' | 'OH' | 'OW' | 'strideH' | 'strideW' | 'padH' | 'padW', number>
  >;
}

function geometryOf({ dims: d }: ConvAttrs) {
  return {
    kernel_shape: [d.R, d.S],
    strides: [d.strideH, d.strideW],
    pads: [d.padH, d.padW, d.padH, d.padW],
  };
}

/** With the activation that the op stores its result by, if it has one. */
const conv: Rule<ConvAttrs & { readonly activation?: Activation | undefined }> = (
  { graph, names },
  { activation, ...attrs },
) => {
  const sum = graph.node('Conv', names, { ints: geometryOf(attrs) });
  if (activation === undefined) return sum;
  if (activation.name === 'relu') return graph.node('Relu', [sum]);
  return graph.node('LeakyRelu', [sum], { floats: { alpha: activation.negativeSlope } });
};

/** Its H and W are those of the result. */
const convTranspose: Rule<ConvAttrs> = ({ graph, names }, attrs) => {
  const { dims: d } = attrs;
  const output_padding = [
    d.H - ((d.OH - 1) * d.strideH - 2 * d.padH + d.R),
    d.W - ((d.OW - 1) * d.strideW - 2 * d.padW + d.S),
  ];
  return graph.node('ConvTranspose', names, { ints: { ...geometryOf(attrs), output_padding } });
};

interface PoolAttrs {
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  /** Of means alone. */
  readonly countIncludePad?: boolean | undefined;
}

const pool =
  (op: string): Rule<PoolAttrs> =>
  ({ graph, names }, { kernel, stride, padding, countIncludePad }) => {
    const pads = Array<number>(4).fill(padding);
    const counted =
      countIncludePad === undefined ? {} : { count_include_pad: Number(countIncludePad) };
    const ints = { kernel_shape: [kernel, kernel], strides: [stride, stride], pads, ...counted };
    return graph.node(op, names, { ints });
  };

/** To the height and width of the result. */
function resize(
  { graph, names, shape }: OpToWrite,
  [mode, transform]: readonly [mode: string, transform: string],
): string {
  const strings = { mode, coordinate_transformation_mode: transform, nearest_mode: 'floor' };
  const sizes = graph.int64(shape.slice(2));
  return graph.node('Resize', [...names, '', '', sizes], { strings, ints: { axes: [2, 3] } });
}

// ---- products and sums ----------------------------------------------------------------------------------------------

interface ProductAttrs {
  readonly transA: boolean;
  readonly transB: boolean;
  readonly alpha: number;
}

const product: Rule<ProductAttrs> = ({ graph, names, inputs }, { transA, transB, alpha }) => {
  const factors = names.map((name, i) => {
    if (!(i === 0 ? transA : transB)) return name;
    const rank = inputs[i]?.shape.length ?? 0;
    const lead = Array.from({ length: rank - 2 }, (_u, axis) => axis);
    return graph.node('Transpose', [name], { ints: { perm: [...lead, rank - 1, rank - 2] } });
  });
  return scaled(graph, graph.node('MatMul', factors), alpha);
};

function scaled(graph: GraphWriter, name: string, scale: number): string {
  return scale === 1 ? name : graph.node('Mul', [name, graph.float(scale)]);
}

interface ReduceAttrs {
  readonly axes: readonly number[];
  readonly scale: number;
}

const reduce =
  (op: string): Rule<ReduceAttrs> =>
  ({ graph, names }, { axes, scale }) =>
    scaled(graph, graph.node(op, [...names, graph.int64(axes)], { ints: { keepdims: 1 } }), scale);

interface TopkAttrs {
  readonly layout: 'channel' | 'sequence';
  readonly scale: number;
  readonly top: number;
}

/** Scores that are not among the largest of their row are pushed out of the softmax. */
const topkAttention: Rule<TopkAttrs> = (op, { layout, scale, top }) => {
  const { graph } = op;
  const channel = layout === 'channel';
  const multiply = (names: readonly string[], more: Partial<ProductAttrs>) =>
    product({ ...op, names }, { transA: false, transB: false, alpha: 1, ...more });
  const zeros = (like: string) => graph.node('ConstantOfShape', [graph.node('Shape', [like])]);
  const [q = '', k = '', v = ''] = op.names;
  const scores = multiply([q, k], { transA: channel, transB: !channel, alpha: scale });
  const options = { ints: { axis: -1 } };
  const largest = graph.node('TopK', [scores, graph.int64([top])], { ...options, results: 2 });
  const index = `${largest}:1`;
  const ones = graph.node('Add', [zeros(index), graph.float(1)]);
  const chosen = graph.node('ScatterElements', [zeros(scores), index, ones], options);
  const others = graph.node('Sub', [chosen, graph.float(1)]);
  const pushed = graph.node('Add', [scores, scaled(graph, others, 1e30)]);
  const map = graph.node('Softmax', [pushed], options);
  return channel ? multiply([v, map], { transB: true }) : multiply([map, v], {});
};

// ---- one element at a time ------------------------------------------------------------------------------------------

interface Scalars {
  readonly a?: number;
  readonly b?: number;
}

const affine: Rule<Scalars> = ({ graph, names: [x = ''] }, { a = 1, b = 0 }) => {
  const product = scaled(graph, x, a);
  return b === 0 ? product : graph.node('Add', [product, graph.float(b)]);
};

const leakyRelu: Rule<Scalars> = ({ graph, names }, { a: alpha = 0.01 }) =>
  graph.node('LeakyRelu', names, { floats: { alpha } });

// ---- layout ---------------------------------------------------------------------------------------------------------

interface SliceAttrs {
  readonly axis: number;
  readonly start: number;
  readonly length: number;
}

const slice: Rule<SliceAttrs> = ({ graph, names }, { axis, start, length }) =>
  graph.node('Slice', [
    ...names,
    ...[[start], [start + length], [axis]].map((values) => graph.int64(values)),
  ]);

/** Sizes that the input has already are left as they are, by a 1. */
const expand: Rule = ({ graph, names, inputs, shape }) => {
  const own = inputs[0]?.shape ?? [];
  const lead = shape.length - own.length;
  const sizes = shape.map((d, i) => (d === -1 && own[i - lead] !== 1 ? 1 : d));
  return graph.node('Expand', [...names, graph.int64(sizes)]);
};

/**
 * How the ops of an evaluation are written in ONNX, by the names under which the tape records them. An op with a
 * composition needs no place here: it is written as that.
 */
export const onnxRules: ReadonlyMap<string, Rule<never>> = new Map<string, Rule<never>>(
  Object.entries({
    conv2d: conv,
    convTranspose2d: convTranspose,
    maxPool2d: pool('MaxPool'),
    avgPool2d: pool('AveragePool'),
    upsampleNearest2x: (op: OpToWrite) => resize(op, ['nearest', 'asymmetric']),
    resizeBilinear: (op: OpToWrite, { alignCorners }: { alignCorners: boolean }) =>
      resize(op, ['linear', alignCorners ? 'align_corners' : 'half_pixel']),
    matmul: product,
    topkAttention,
    sum: reduce('ReduceSum'),
    amax: reduce('ReduceMax'),
    softmax: ({ graph, names }: OpToWrite) => graph.node('Softmax', names, { ints: { axis: -1 } }),
    embedding: as('Gather'),
    reshape: ({ graph, names, shape }: OpToWrite) =>
      graph.node('Reshape', [...names, graph.int64(shape)]),
    permute: ({ graph, names }: OpToWrite, { order }: { order: readonly number[] }) =>
      graph.node('Transpose', names, { ints: { perm: order } }),
    concat: ({ graph, names }: OpToWrite, { axis }: { axis: number }) =>
      graph.node('Concat', names, { ints: { axis } }),
    slice,
    expand,
    affine,
    leakyRelu,
    eluPlusOne: ({ graph, names }: OpToWrite) =>
      graph.node('Add', [graph.node('Elu', names), graph.float(1)]),
    square: ({ graph, names: [x = ''] }: OpToWrite) => graph.node('Mul', [x, x]),
    rsqrt: as('Sqrt', 'Reciprocal'),
    neg: as('Neg'),
    abs: as('Abs'),
    sqrt: as('Sqrt'),
    reciprocal: as('Reciprocal'),
    exp: as('Exp'),
    log: as('Log'),
    relu: as('Relu'),
    tanh: as('Tanh'),
    sigmoid: as('Sigmoid'),
    softplus: as('Softplus'),
    add: as('Add'),
    sub: as('Sub'),
    mul: as('Mul'),
    div: as('Div'),
    maximum: as('Max'),
    minimum: as('Min'),
  }),
);
