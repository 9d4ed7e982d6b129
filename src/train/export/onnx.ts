import { at } from '../../autograd/op.ts';
import type { TapeNode } from '../../autograd/op.ts';
import { tensor } from '../../autograd/tensor.ts';
import type { Tensor } from '../../autograd/tensor.ts';
import type { OnnxData, OnnxGraph, OnnxNode, OnnxValue } from '../../io/onnx.ts';
import type { Net } from '../../models/gan.ts';
import { UserError } from '../../util/errors.ts';
import { sameShape, showShape } from '../../util/shape.ts';
import type { Shape } from '../../util/shape.ts';
import { latents } from '../latents.ts';
import { foldAffine } from './fold.ts';
import { onnxRules } from './onnx-ops.ts';
import type { GraphWriter, OnnxAttributes } from './onnx-ops.ts';

/** What the batch is called in a model, and what the tensors at its ends are. */
const batchSize = 'batch';
const ends = { latents: 'z', labels: 'labels', images: 'images' } as const;

/**
 * A generator in evaluation mode as an ONNX graph: z (batch, latentSize) → images (batch, channels, S, S) in [−1, 1], and with
 * classes labels (batch) of int64 besides; the batch is any.
 *
 * Nothing here knows an architecture: the forward pass is run on a recording tape and what it recorded is written down. What
 * does not depend on the inputs is a constant and is read from the device, so spectral norms come out folded into the
 * weights and batch norms as a scale and a shift. The pass is run twice, with other inputs and another batch: a size that differs is the batch's, and a constant
 * that differs is none. Throws a `UserError` for an op that cannot be written.
 */
export async function onnxOf(
  generator: Net,
  options: { readonly latentSize: number; readonly classes: number },
): Promise<OnnxGraph> {
  generator.eval();
  const passes = [2, 3].map((batch) => pass(generator, { ...options, batch }));
  const [first, second] = [at(passes, 0), at(passes, 1)];
  const writer = new TapeWriter(first.inputs);
  writer.output([first.images, second.images], ends.images);
  const { latentSize, classes } = options;
  const inputs: OnnxValue[] = [[ends.latents, [batchSize, latentSize]]];
  if (classes > 0) inputs.push([ends.labels, [batchSize], 'int64']);
  return foldAffine({
    nodes: writer.nodes,
    inputs,
    constants: await writer.constants(),
    output: [ends.images, [batchSize, ...first.images.shape.slice(1)]],
  });
}

/** A forward pass, recorded, and what it began from. */
function pass(
  generator: Net,
  { batch, latentSize, classes }: { batch: number; latentSize: number; classes: number },
) {
  const { tape } = generator;
  // Only what asks for a gradient is recorded.
  const z = tensor(tape, latents(batch, batch, latentSize), [batch, latentSize], {
    requiresGrad: true,
  });
  const inputs = new Map<Tensor, string>([[z, ends.latents]]);
  const classOf = (_u: unknown, i: number) => (batch + i) % classes;
  const labels =
    classes === 0 ? undefined : tensor(tape, Uint32Array.from({ length: batch }, classOf), [batch]);
  if (labels !== undefined) inputs.set(labels, ends.labels);
  return { inputs, images: tape.withRecording(true, () => generator.forward(z, labels)) };
}

/** The same tensor in both passes. */
type Twin = readonly [Tensor, Tensor];

/** Writes down what led to a tensor, each node after those that it reads. */
class TapeWriter implements GraphWriter {
  readonly nodes: OnnxNode[] = [];
  /** Of tensors of the first pass. */
  readonly #names: Map<Tensor, string>;
  readonly #depends = new Map<Tensor, boolean>();
  readonly #constants: { readonly name: string; readonly twin: Twin }[] = [];
  readonly #literals = new Map<string, readonly [string, Shape, OnnxData]>();
  readonly #taken = new Set<string>(Object.values(ends));
  /** The layer whose op is being written: names begin with it. */
  #layer = '';

  constructor(inputs: ReadonlyMap<Tensor, string>) {
    this.#names = new Map(inputs);
    for (const input of inputs.keys()) this.#depends.set(input, true);
  }

  /** Writes all that leads to a tensor, and gives it a name. */
  output(twin: Twin, name: string): void {
    const found = this.#nameOf(twin);
    this.nodes.push({ op: 'Identity', inputs: [found], output: name });
  }

  node(op: string, inputs: readonly string[], attributes: OnnxAttributes = {}): string {
    const output = this.#unique(op.toLowerCase());
    this.nodes.push({ op, inputs, output, ...attributes });
    return output;
  }

  int64(values: readonly number[]): string {
    const data = BigInt64Array.from(values, BigInt);
    return this.#literal(`int64(${values.join(', ')})`, [values.length], data);
  }

  float(value: number): string {
    return this.#literal(`float(${value})`, [], Float32Array.of(value));
  }

  /** Everything constant, read from the device. Throws a `UserError` where one depends on the inputs after all. */
  async constants(): Promise<OnnxGraph['constants']> {
    const found: (readonly [string, Shape, OnnxData])[] = [...this.#literals.values()];
    for (const { name, twin } of this.#constants) {
      const [a, b] = twin;
      const data = await valuesOf(a);
      const other = a === b ? data : await valuesOf(b);
      if (!sameShape(a.shape, b.shape) || !data.every((x, i) => Object.is(x, other[i]))) {
        throw new UserError(
          `${name} ${showShape(a.shape)} cannot be written as ONNX: it changes with the input, and no recorded op says how`,
        );
      }
      found.push([name, a.shape, data]);
    }
    return found;
  }

  #nameOf([a, b]: Twin): string {
    let name = this.#names.get(a);
    name ??= this.#dependsOnInput(a) ? this.#write(a, b) : this.#constant([a, b]);
    this.#names.set(a, name);
    return name;
  }

  /** By way of recorded ops; an op that was not recorded is found out by the values that it made. */
  #dependsOnInput(t: Tensor): boolean {
    const known = this.#depends.get(t);
    if (known !== undefined) return known;
    const found = t.node?.inputs.some((input) => this.#dependsOnInput(input)) ?? false;
    this.#depends.set(t, found);
    return found;
  }

  /** Writes the op that made a tensor. */
  #write(a: Tensor, b: Tensor): string {
    const [node, other] = [a.node, b.node];
    if (node === undefined || other?.name !== node.name) {
      throw new Error(`${a.label} ${showShape(a.shape)} is made in another way for another batch`);
    }
    const rule = onnxRules.get(node.name);
    if (rule === undefined) return this.#writeComposition(node, other, node.outputs.indexOf(a));
    const names = node.inputs.map((input, i) => this.#at(node, [input, at(other.inputs, i)]));
    this.#layer = node.layer;
    const shape = a.shape.map((d, i) => (d === b.shape[i] ? d : -1));
    const op = { graph: this, names, inputs: node.inputs, shape };
    // The table's rules take the attributes of the op of their name.
    return rule(op, node.attrs as never);
  }

  /** The name of an input: if it is a constant, one that says of which layer. */
  #at({ layer }: TapeNode, twin: Twin): string {
    this.#layer = layer;
    return this.#nameOf(twin);
  }

  #writeComposition(node: TapeNode, other: TapeNode, i: number): string {
    const [plain, twin] = [node, other].map(({ composition, layer, inputs }) => {
      const { tape, gpu } = at(inputs, 0);
      return gpu.within({ layer }, () => tape.withRecording(true, () => composition?.()))?.[i];
    });
    if (plain === undefined || twin === undefined) {
      throw new UserError(`${node.layer} computes ${node.name}, which cannot be written as ONNX`);
    }
    return this.#nameOf([plain, twin]);
  }

  #constant(twin: Twin): string {
    const name = this.#unique(at(twin, 0).label);
    this.#constants.push({ name, twin });
    return name;
  }

  #literal(key: string, shape: Shape, data: OnnxData): string {
    const known = this.#literals.get(key);
    if (known !== undefined) return known[0];
    this.#literals.set(key, [key, shape, data]);
    return key;
  }

  #unique(word: string): string {
    const name = this.#layer === '' ? word : `${this.#layer}.${word}`;
    let found = name;
    for (let i = 2; this.#taken.has(found); i++) found = `${name}_${i}`;
    this.#taken.add(found);
    return found;
  }
}

/** Indices are whole numbers in ONNX too, of the type that it takes for them. */
async function valuesOf(t: Tensor): Promise<OnnxData> {
  return t.dtype === 'u32' ? BigInt64Array.from(await t.readU32(), BigInt) : await t.read();
}
