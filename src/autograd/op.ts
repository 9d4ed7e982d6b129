import type { Gpu } from '../gpu/device.ts';
import type { Shape } from '../util/shape.ts';
import { showShape, sizeOf } from '../util/shape.ts';
import { Tensor, bytesOf } from './tensor.ts';
import type { DType } from './tensor.ts';

/** What a backward rule is given: the gradient of each output (absent where none flows) and what the op saved. */
export interface BackwardArgs<A> {
  readonly grads: readonly (Tensor | undefined)[];
  readonly saved: readonly Tensor[];
  readonly attrs: A;
  /** Of each input, whether its gradient will be asked for: a rule that makes several at once leaves the others out. */
  readonly needs: readonly boolean[];
}

/** Computes one input's gradient; called only if somebody needs it. */
export type GradThunk = () => Tensor;

export interface OutputSpec {
  readonly shape: Shape;
  /** Left out: that of the inputs that are 'float', f32 if there is none. */
  readonly dtype?: DType;
}

/**
 * An operation: its shape rule, its launch, and its gradient written in other ops (so that gradients have gradients).
 * `A` is what is not a tensor: strides, axes, slopes.
 */
export interface OpDef<A> {
  readonly name: string;
  /**
   * Element types of the inputs, in order; f32 for those it does not list. 'float' is f32 or f16, and those that are it
   * agree; the word alone stands for all inputs. 'any' alone: it moves elements as they are; in a list: it tells them apart.
   */
  readonly dtypes?: 'any' | 'float' | readonly (DType | 'float' | 'any')[];
  /** Shapes of the outputs; throws a RangeError that names roles and sizes. */
  infer(inputs: readonly Tensor[], attrs: A): readonly OutputSpec[];
  /** Launches kernels that fill every output. */
  forward(
    gpu: Gpu,
    args: { inputs: readonly Tensor[]; outputs: readonly Tensor[]; attrs: A },
  ): void;
  /** A view op gives its one output the storage of its first input, and launches nothing. */
  readonly view?: boolean;
  /** The tensors that backward will read; nothing else is kept. */
  saves?(inputs: readonly Tensor[], outputs: readonly Tensor[], attrs: A): readonly Tensor[];
  /** Its rule takes a gradient in f32 of an output in f16, as one that moves elements as they are does; others are given it in f16. */
  readonly anyGradient?: boolean;
  /** One thunk an input; `undefined` where no gradient is defined (indices). Without it, nothing is differentiable. */
  backward?(args: BackwardArgs<A>): readonly (GradThunk | undefined)[];
  /**
   * The meaning of a fused op in plain ops: takes the inputs, returns the differentiable outputs. Second derivatives
   * go through it, and tests use it as an oracle. With it, `backward` need not be differentiable.
   */
  readonly composition?: (inputs: readonly Tensor[], attrs: A) => readonly Tensor[];
}

/** One executed op, kept while its outputs are. */
export interface TapeNode {
  readonly name: string;
  /** The module that executed it: what its gradient launches is marked with it too. */
  readonly layer: string;
  readonly inputs: readonly Tensor[];
  /** It takes gradients of any float type; otherwise those of its outputs' types. */
  readonly anyGradient: boolean;
  /** Of the op: what it knows beside its inputs. For those who read a graph to write it down elsewhere. */
  readonly attrs: unknown;
  /** A fused op once more in plain ops, recorded if the tape records. */
  readonly composition: (() => readonly Tensor[]) | undefined;
  /** Gradient thunks of this execution; `createGraph` chooses the composition of a fused op. */
  gradients(
    grads: readonly (Tensor | undefined)[],
    needs: readonly boolean[],
    createGraph: boolean,
  ): readonly (GradThunk | undefined)[];
  /** Filled once, right after the outputs are made. */
  outputs: readonly Tensor[];
}

/** An op as callers see it: tensors and attributes in, tensors out. */
export type Op<A> = (inputs: readonly Tensor[], attrs: A) => readonly Tensor[];

/** Makes an op callable: checks shapes, launches, and records a node if an input needs a gradient. */
export function defineOp<A = undefined>(def: OpDef<A>): Op<A> {
  return (inputs, attrs) => {
    const first = inputs[0];
    if (first === undefined) throw new Error(`${def.name}: an op has at least one input`);
    const float = requireDtypes(def, inputs);
    const tape = first.tape;
    const specs = def.infer(inputs, attrs);
    const differentiable = def.backward !== undefined || def.composition !== undefined;
    const record = tape.recording && differentiable && inputs.some((t) => t.requiresGrad);
    const { name, anyGradient = def.dtypes === 'any' } = def;
    const { layer } = tape.gpu.where;
    const node: TapeNode | undefined = record
      ? {
          ...{ name, layer, inputs, attrs, anyGradient },
          composition: def.composition && (() => def.composition?.(inputs, attrs) ?? []),
          ...{ outputs: [], gradients: () => [] },
        }
      : undefined;
    const outputs = specs.map(({ shape, dtype = float }) => {
      const storage =
        def.view === true ? first.storage : tape.gpu.alloc(bytesOf(sizeOf(shape), dtype), def.name);
      const requiresGrad = record && dtype !== 'u32';
      return new Tensor(tape, { shape, storage, dtype, requiresGrad, node });
    });
    if (def.view !== true) {
      tape.kept?.check(inputs);
      def.forward(tape.gpu, { inputs, outputs, attrs });
    }
    if (node !== undefined) {
      const saved = def.saves?.(inputs, outputs, attrs) ?? [];
      const kept = new Kept(def.name, [...saved, ...inputs]);
      node.outputs = outputs;
      node.gradients = (grads, needs, createGraph) => {
        const thunks =
          createGraph && def.composition !== undefined
            ? tape.keeping(kept, () => throughComposition(def, { inputs, attrs, grads }))
            : (def.backward?.({ grads, saved, attrs, needs }) ?? []);
        return thunks.map((thunk) => thunk && (() => tape.keeping(kept, thunk)));
      };
    }
    return outputs;
  };
}

/**
 * What the tensors of one execution held when its gradient was promised: PyTorch's version counters. While a backward
 * rule runs, an op that reads one of them later than it should is refused; a rule that asks only its shape is not.
 */
export class Kept {
  readonly #op: string;
  readonly #versions: ReadonlyMap<Tensor, number>;

  constructor(op: string, tensors: readonly Tensor[]) {
    this.#op = op;
    this.#versions = new Map(tensors.map((t) => [t, t.storage.version]));
  }

  check(inputs: readonly Tensor[]): void {
    for (const t of inputs) {
      const version = this.#versions.get(t);
      if (version === undefined || version === t.storage.version) continue;
      throw new Error(
        `${this.#op}: ${t.label} ${showShape(t.shape)} was changed in place after it was used, and its gradient needs ` +
          'the old values; take the gradients first, or compute the result again',
      );
    }
  }
}

/**
 * Throws a RangeError where an input is not of the element type that the op reads, or where two that must agree do not.
 * Returns the type of the inputs that are 'float', f32 if there is none.
 */
function requireDtypes(
  { name, dtypes = [] }: Pick<OpDef<never>, 'name' | 'dtypes'>,
  inputs: readonly Tensor[],
): DType {
  if (dtypes === 'any') return 'f32';
  const complain = (t: Tensor, i: number, rule: string) =>
    new RangeError(
      `${name}: input ${i} (${t.label}) is ${t.dtype} ${showShape(t.shape)}; it must be ${rule}`,
    );
  let float: { t: Tensor; i: number } | undefined;
  inputs.forEach((t, i) => {
    const needed = dtypes === 'float' ? 'float' : (dtypes[i] ?? 'f32');
    if (needed === 'any') return;
    if (needed !== 'float') {
      if (t.dtype !== needed) throw complain(t, i, needed);
      return;
    }
    if (t.dtype === 'u32') throw complain(t, i, 'f32 or f16');
    float ??= { t, i };
    if (t.dtype !== float.t.dtype) {
      const other = `${float.t.dtype} as input ${float.i} (${float.t.label}) is`;
      throw complain(t, i, `${other}: convert one by to()`);
    }
  });
  return float?.t.dtype ?? 'f32';
}

/** The same tensor once more: tells two inputs of an op apart that one tensor was given for. */
const alias = defineOp({
  name: 'alias',
  dtypes: 'any',
  view: true,
  infer: (inputs) => [{ shape: at(inputs, 0).shape, dtype: at(inputs, 0).dtype }],
  forward: () => undefined,
  backward: ({ grads }) => [() => at(grads, 0) as Tensor],
});

function throughComposition<A>(
  { composition = () => [] }: OpDef<A>,
  args: { inputs: readonly Tensor[]; attrs: A; grads: readonly (Tensor | undefined)[] },
): readonly GradThunk[] {
  const { partialGrad } = at(args.inputs, 0).tape;
  const inputs = args.inputs.map((x, i) =>
    args.inputs.indexOf(x) === i ? x : only(alias([x], undefined)),
  );
  const outputs = composition(inputs, args.attrs);
  const all = once(() => partialGrad(outputs, inputs, args.grads));
  return args.inputs.map((_input, i) => () => {
    const gradient = all()[i];
    if (gradient === undefined)
      throw new Error(`input ${i} does not reach the composition's output`);
    return gradient;
  });
}

/** Computes on the first call, remembers: for gradients that one launch makes together. */
export function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

/** The output of an op that has one. */
export function only(outputs: readonly Tensor[]): Tensor {
  const [output] = outputs;
  if (output === undefined) throw new Error('the op has no output');
  return output;
}

/** The i-th of an op's inputs, outputs or saved tensors. */
export function at<T>(list: readonly T[], i: number): T {
  const value = list[i];
  if (value === undefined) throw new Error(`there is no tensor ${i} among ${list.length}`);
  return value;
}
