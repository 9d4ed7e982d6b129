import type { OnnxGraph, OnnxNode } from '../../io/onnx.ts';
import { sameShape } from '../../util/shape.ts';
import type { Shape } from '../../util/shape.ts';

/** Nodes in a row that amount to scale·x + shift, with constants of one shape. */
interface Run {
  readonly x: string;
  readonly shape: Shape;
  readonly scale: readonly number[];
  readonly shift: readonly number[];
}

/** What comes of scale·x + shift by another node of a run, element by element. */
const steps: Readonly<
  Record<string, (run: readonly [scale: number, shift: number], c: number) => [number, number]>
> = {
  Add: ([scale, shift], c) => [scale, shift + c],
  Sub: ([scale, shift], c) => [scale, shift - c],
  Mul: ([scale, shift], c) => [scale * c, shift * c],
};

/** The graph with each run of more than two nodes, as a batch norm in evaluation is, made one Mul and one Add. */
export function foldAffine(graph: OnnxGraph): OnnxGraph {
  const constants = new Map(graph.constants.map((constant) => [constant[0], constant]));
  const readers = new Map<string, number>();
  for (const name of graph.nodes.flatMap(({ inputs }) => inputs)) {
    readers.set(name, (readers.get(name) ?? 0) + 1);
  }
  /** By the name of the result, in order; a run's nodes stand together where its last one stood. */
  const parts = new Map<string, { readonly nodes: readonly OnnxNode[]; readonly run?: Run }>();
  for (const node of graph.nodes) {
    const [x = '', other = ''] = node.inputs;
    const [, shape = [], values] = constants.get(other) ?? [];
    const step = steps[node.op];
    if (step === undefined || !(values instanceof Float32Array)) {
      parts.set(node.output, { nodes: [node] });
      continue;
    }
    const before = parts.get(x);
    const goesOn =
      before?.run !== undefined && readers.get(x) === 1 && sameShape(before.run.shape, shape);
    if (goesOn) parts.delete(x);
    const old = goesOn ? before.run : undefined;
    const made = Array.from(values, (c, i) => step([old?.scale[i] ?? 1, old?.shift[i] ?? 0], c));
    const run = {
      ...{ x: old?.x ?? x, shape },
      scale: made.map(([scale]) => scale),
      shift: made.map(([, shift]) => shift),
    };
    parts.set(node.output, { nodes: [...(goesOn ? before.nodes : []), node], run });
  }
  const nodes = [...parts].flatMap(([output, { nodes: own, run }]) => {
    if (run === undefined || own.length <= 2) return own;
    const [scale, shift, product] = [`${output}.scale`, `${output}.shift`, `${output}.scaled`];
    constants.set(scale, [scale, run.shape, Float32Array.from(run.scale)]);
    constants.set(shift, [shift, run.shape, Float32Array.from(run.shift)]);
    return [
      { op: 'Mul', inputs: [run.x, scale], output: product },
      { op: 'Add', inputs: [product, shift], output },
    ];
  });
  const read = new Set(nodes.flatMap(({ inputs }) => inputs));
  const kept = [...constants.values()].filter(([name]) => read.has(name));
  return { ...graph, nodes, constants: kept };
}
