import type { Gpu } from '../gpu/device.ts';
import { fill, total } from '../kernels/pointwise.ts';
import { sameShape, showShape } from '../util/shape.ts';
import { to, typeAs } from './cast.ts';
import { at, defineOp, only } from './op.ts';
import type { Kept, TapeNode } from './op.ts';
import { empty } from './tensor.ts';
import type { Tensor } from './tensor.ts';

/**
 * Where ops are recorded: a device, and whether recording is on. The graph itself hangs on the tensors, so it lives
 * as long as somebody holds a result and no longer.
 */
export class Tape {
  readonly gpu: Gpu;
  #recording = true;
  #kept: Kept | undefined;

  constructor(gpu: Gpu) {
    this.gpu = gpu;
  }

  get recording(): boolean {
    return this.#recording;
  }

  /** Runs `body` with recording off: its results have no history. */
  noGrad<T>(body: () => T): T {
    return this.withRecording(false, body);
  }

  withRecording<T>(on: boolean, body: () => T): T {
    const before = this.#recording;
    this.#recording = on;
    try {
      return body();
    } finally {
      this.#recording = before;
    }
  }

  /** While a backward rule runs: what its tensors must still hold. */
  get kept(): Kept | undefined {
    return this.#kept;
  }

  /** Runs a backward rule under watch. */
  keeping<T>(kept: Kept, body: () => T): T {
    const before = this.#kept;
    this.#kept = kept;
    try {
      return body();
    } finally {
      this.#kept = before;
    }
  }

  /** The gradient of a fused op's composition with respect to that op's own inputs, recorded. */
  readonly partialGrad = (
    outputs: readonly Tensor[],
    inputs: readonly Tensor[],
    grads: readonly (Tensor | undefined)[],
  ): readonly (Tensor | undefined)[] =>
    this.withRecording(true, () =>
      differentiate({ outputs, inputs, grads, createGraph: true, partial: true }),
    );
}

export interface GradOptions {
  /** Record the backward pass, so that the gradients can be differentiated again. */
  readonly createGraph?: boolean;
  /** Gradient of each output; ones for outputs with a single element. */
  readonly gradOutputs?: readonly Tensor[];
  /** Leave `undefined`-gradients as zeros instead of throwing (PyTorch's `allow_unused` with zeros). */
  readonly allowUnused?: boolean;
}

/**
 * d(Σ outputs·gradOutputs)/d(inputs), one tensor an input, in the manner of `torch.autograd.grad`. The order of
 * summation is the order of the graph, so the same graph gives the same bits.
 */
export function grad(
  outputs: readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): Tensor[] {
  const tape = at(outputs, 0).tape;
  const createGraph = options.createGraph ?? false;
  return tape.withRecording(createGraph, () => {
    const seeds = outputs.map((output, i) => {
      const given = options.gradOutputs?.[i];
      if (given === undefined && output.size !== 1) {
        throw new RangeError(
          `grad: output ${i} is ${showShape(output.shape)}; only a single element has an implied gradient, pass gradOutputs`,
        );
      }
      if (given !== undefined && !sameShape(given.shape, output.shape)) {
        throw new RangeError(
          `grad: gradOutputs[${i}] is ${showShape(given.shape)} but the output is ${showShape(output.shape)}`,
        );
      }
      return given ?? backwardOf(output, () => filled(output, 1));
    });
    const found = differentiate({ outputs, inputs, grads: seeds, createGraph, partial: false });
    return found.map((gradient, i) => {
      if (gradient !== undefined) return gradient;
      const input = at(inputs, i);
      if (options.allowUnused === true) return backwardOf(input, () => filled(input, 0));
      throw new Error(
        `grad: input ${i} (${input.label}) is not used by the outputs; pass allowUnused for zeros`,
      );
    });
  });
}

/** Marks what begins or replaces a gradient with the layer of the tensor that it is of. */
function backwardOf<T>(of: Tensor, body: () => T): T {
  const { gpu, node } = of;
  return gpu.within({ phase: 'backward', layer: node?.layer ?? gpu.where.layer }, body);
}

function filled(like: Tensor, value: number): Tensor {
  const out = empty(like.tape, like.shape, { dtype: like.dtype, label: 'fill' });
  fill(like.gpu, { out: out.storage, n: out.size, value, stored: out.stored });
  return out;
}

/** Σ of tensors of one shape: how gradients meet. Recorded like any op, so accumulation has a gradient too. */
const accumulate = defineOp({
  name: 'accumulate',
  dtypes: 'float',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs }) => {
    const out = only(outputs);
    const terms = inputs.map((t) => t.storage);
    total(gpu, { terms, out: out.storage, n: out.size, stored: out.stored });
  },
  saves: (inputs) => inputs,
  backward: ({ grads, saved }) => saved.map(() => () => at(grads, 0) as Tensor),
});

/**
 * The contributions to a tensor's gradient, added up in the order in which they came. That of a tensor of f16 may be f32 (a
 * weight's is): where both kinds meet, the sum is f32.
 */
function sumOf(terms: readonly Tensor[]): Tensor {
  if (terms.length === 1) return at(terms, 0);
  const narrow = terms.every((t) => t.dtype === 'f16');
  return only(accumulate(narrow ? terms : terms.map((t) => to(t, 'f32')), undefined));
}

/** The sums of several tensors' contributions: in one launch if a captured step can lay each round of them in a row. */
function sumsOf(lists: readonly (readonly Tensor[] | undefined)[]): (Tensor | undefined)[] {
  const [first] = lists;
  const count = first?.length ?? 0;
  const floats = lists.flat().every((t) => t?.dtype === 'f32');
  const alike = count > 1 && lists.length > 1 && lists.every((list) => list?.length === count);
  if (first === undefined || !alike || !floats || at(first, 0).tape.recording) {
    return lists.map((list) => list && sumOf(list));
  }
  const { gpu, tape } = at(first, 0);
  const row = (of: (list: readonly Tensor[]) => Tensor) =>
    gpu.together(lists.map((list) => of(list ?? []).storage));
  const terms = first.map((_t, k) => row((list) => at(list, k)));
  if (terms.some((term) => term === undefined)) return lists.map((list) => list && sumOf(list));
  const sums = lists.map((list) => empty(tape, at(list ?? [], 0).shape, { label: 'accumulate' }));
  const out = gpu.together(sums.map((t) => t.storage));
  if (out === undefined) return lists.map((list) => list && sumOf(list));
  total(gpu, { terms: terms.flatMap((term) => term ?? []), out, n: out.bytes / 4 });
  return sums;
}

interface Walk {
  readonly outputs: readonly Tensor[];
  readonly inputs: readonly Tensor[];
  readonly grads: readonly (Tensor | undefined)[];
  readonly createGraph: boolean;
  /** Stop at the inputs: derivatives with the other inputs held still. */
  readonly partial: boolean;
}

/** Walks back from the outputs, only where an input can be reached. */
function differentiate({
  outputs,
  inputs,
  grads,
  createGraph,
  partial,
}: Walk): (Tensor | undefined)[] {
  const wanted = new Set(inputs);
  const stops: ReadonlySet<Tensor> = partial ? wanted : new Set();
  const order = reachingNodes(outputs, { wanted, stops });
  const leads = new Set(order);
  const given = new Map<Tensor, Tensor[]>();
  const give = (to: Tensor, gradient: Tensor) => {
    const before = given.get(to);
    if (before === undefined) given.set(to, [gradient]);
    else before.push(gradient);
  };
  const met = (of: Tensor) => {
    const terms = given.get(of);
    if (terms === undefined) return undefined;
    const sum = sumOf(terms);
    given.set(of, [sum]);
    return sum;
  };
  outputs.forEach((output, i) => {
    const seed = grads[i];
    if (seed !== undefined) give(output, seed);
  });
  const visit = (node: TapeNode) => {
    const mine = node.outputs.map((o) => {
      const sum = stops.has(o) ? undefined : met(o);
      return sum === undefined || node.anyGradient ? sum : typeAs(sum, o);
    });
    if (mine.every((g) => g === undefined)) return;
    const needs = node.inputs.map(
      (input) =>
        input.requiresGrad &&
        (wanted.has(input) || (input.node !== undefined && leads.has(input.node))),
    );
    const thunks = node.gradients(mine, needs, createGraph);
    node.inputs.forEach((input, i) => {
      const thunk = thunks[i];
      if (thunk === undefined || needs[i] !== true) return;
      const gradient = thunk();
      if (!sameShape(gradient.shape, input.shape)) {
        throw new Error(
          `${node.name}: gradient of input ${i} is ${showShape(gradient.shape)}, the input ${showShape(input.shape)}`,
        );
      }
      give(input, gradient);
    });
    for (const o of node.outputs) if (!wanted.has(o)) given.delete(o);
  };
  const { gpu } = at(outputs, 0);
  for (const node of order.reverse()) {
    gpu.within({ phase: 'backward', layer: node.layer }, () => {
      visit(node);
    });
  }
  return gpu.within({ phase: 'backward' }, () => sumsOf(inputs.map((input) => given.get(input))));
}

/** Nodes between the outputs and the wanted tensors, each after the nodes that feed it. Iterative: graphs are deep. */
function reachingNodes(
  outputs: readonly Tensor[],
  { wanted, stops }: { wanted: ReadonlySet<Tensor>; stops: ReadonlySet<Tensor> },
): TapeNode[] {
  const order: TapeNode[] = [];
  const reaches = new Map<TapeNode, boolean>();
  const stack: { node: TapeNode; expanded: boolean }[] = [];
  for (const output of outputs) {
    if (output.node !== undefined && !stops.has(output))
      stack.push({ node: output.node, expanded: false });
  }
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    const { node, expanded } = top;
    if (expanded) {
      const hit = node.inputs.some(
        (t) => wanted.has(t) || (t.node !== undefined && reaches.get(t.node) === true),
      );
      if (!reaches.has(node)) {
        reaches.set(node, hit);
        if (hit) order.push(node);
      }
      continue;
    }
    if (reaches.has(node)) continue;
    stack.push({ node, expanded: true });
    for (const input of node.inputs) {
      const next = stops.has(input) ? undefined : input.node;
      if (next !== undefined && !reaches.has(next)) stack.push({ node: next, expanded: false });
    }
  }
  return order;
}
