/** Just enough of ONNX to write a model: github.com/onnx/onnx, onnx.proto, as protocol buffer bytes. */
import type { Shape } from '../util/shape.ts';

export interface OnnxNode {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly output: string;
  /** Of an op with several: the others are called `output:1`, `output:2`, … Default 1. */
  readonly results?: number;
  readonly ints?: Readonly<Record<string, number | readonly number[]>>;
  readonly floats?: Readonly<Record<string, number>>;
  readonly strings?: Readonly<Record<string, string>>;
}

export type OnnxData = Float32Array | BigInt64Array;

/** A tensor that comes in or goes out; a size that is a word is known when the model runs. */
export type OnnxValue = readonly [
  name: string,
  shape: readonly (number | string)[],
  type?: 'float' | 'int64',
];

export interface OnnxGraph {
  /** Each after the nodes that it reads. */
  readonly nodes: readonly OnnxNode[];
  readonly inputs: readonly OnnxValue[];
  readonly constants: readonly (readonly [name: string, shape: Shape, data: OnnxData])[];
  readonly output: OnnxValue;
}

type Bytes = readonly number[] | Uint8Array;

// TensorProto.DataType and AttributeProto.AttributeType.
const elementTypes = { float: 1, int64: 7 } as const;
const attributeTypes = { float: 1, int: 2, string: 3, ints: 7 } as const;
const [IR_VERSION, OPSET] = [8, 18];

/** A ModelProto of opset 18; `metadata` says what it is to whoever opens it. */
export function encodeModel(
  graph: OnnxGraph,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const body = join([
    ...graph.nodes.map((node) => message(1, encodeNode(node))),
    text(2, 'graph'),
    ...graph.constants.map((constant) => message(5, encodeTensor(...constant))),
    ...graph.inputs.map((input) => message(11, encodeValueInfo(...input))),
    message(12, encodeValueInfo(...graph.output)),
  ]);
  const opset = join([text(1, ''), whole(2, OPSET)]);
  const properties = Object.entries(metadata).map(([key, value]) =>
    message(14, join([text(1, key), text(2, value)])),
  );
  return join([
    whole(1, IR_VERSION),
    text(2, 'wgsagan'),
    message(7, body),
    message(8, opset),
    ...properties,
  ]);
}

function encodeNode({ op, inputs, output, results = 1, ...attributes }: OnnxNode): Uint8Array {
  const { ints = {}, floats = {}, strings = {} } = attributes;
  const attribute = (name: string, type: keyof typeof attributeTypes, ...values: Bytes[]) =>
    message(5, join([text(1, name), ...values, whole(20, attributeTypes[type])]));
  return join([
    ...inputs.map((name) => text(1, name)),
    text(2, output),
    ...Array.from({ length: results - 1 }, (_u, i) => text(2, `${output}:${i + 1}`)),
    text(4, op),
    ...Object.entries(ints).map(([name, value]) =>
      typeof value === 'number'
        ? attribute(name, 'int', whole(3, value))
        : attribute(name, 'ints', ...value.map((i) => whole(8, i))),
    ),
    ...Object.entries(floats).map(([name, value]) => attribute(name, 'float', single(2, value))),
    ...Object.entries(strings).map(([name, value]) => attribute(name, 'string', text(4, value))),
  ]);
}

function encodeTensor(name: string, shape: Shape, data: OnnxData): Uint8Array {
  const type = data instanceof Float32Array ? elementTypes.float : elementTypes.int64;
  const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return join([...shape.map((d) => whole(1, d)), whole(2, type), text(8, name), message(9, raw)]);
}

function encodeValueInfo(...[name, shape, type = 'float']: OnnxValue): Uint8Array {
  const dims = shape.map((d) => message(1, typeof d === 'number' ? whole(1, d) : text(2, d)));
  const tensor = join([whole(1, elementTypes[type]), message(2, join(dims))]);
  return join([text(1, name), message(2, message(1, tensor))]);
}

// ---- protocol buffers -----------------------------------------------------------------------------------------------

const [VARINT, DELIMITED, FIXED32] = [0, 2, 5];

/** Seven bits a byte, the least first; negative numbers as 64-bit two's complement. */
function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  return [...bytes, Number(rest)];
}

function whole(field: number, value: number): Bytes {
  return [...varint(field * 8 + VARINT), ...varint(value)];
}

function single(field: number, value: number): Bytes {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return [...varint(field * 8 + FIXED32), ...bytes];
}

function message(field: number, body: Bytes): Uint8Array {
  return join([varint(field * 8 + DELIMITED), varint(body.length), body]);
}

function text(field: number, value: string): Uint8Array {
  return message(field, new TextEncoder().encode(value));
}

function join(parts: readonly Bytes[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
