/** Just enough of ONNX to write a model of a few nodes: github.com/onnx/onnx, onnx.proto, as protocol buffer bytes. */
import type { Shape } from '../../src/util/shape.ts';

export interface OnnxNode {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly output: string;
  readonly ints?: Readonly<Record<string, number | readonly number[]>>;
}

export interface OnnxGraph {
  readonly nodes: readonly OnnxNode[];
  readonly inputs: readonly (readonly [name: string, shape: Shape])[];
  readonly constants: readonly (readonly [
    name: string,
    shape: Shape,
    data: Float32Array | BigInt64Array,
  ])[];
  readonly output: readonly [name: string, shape: Shape];
}

type Bytes = readonly number[] | Uint8Array;

// TensorProto.DataType and AttributeProto.AttributeType.
const [FLOAT, INT64, INT, INTS] = [1, 7, 2, 7];
const [IR_VERSION, OPSET] = [8, 17];

/** A ModelProto. */
export function encodeModel(graph: OnnxGraph): Uint8Array {
  const body = join([
    ...graph.nodes.map((node) => message(1, encodeNode(node))),
    text(2, 'graph'),
    ...graph.constants.map((constant) => message(5, encodeTensor(...constant))),
    ...graph.inputs.map((input) => message(11, encodeValueInfo(...input))),
    message(12, encodeValueInfo(...graph.output)),
  ]);
  const opset = join([text(1, ''), whole(2, OPSET)]);
  return join([whole(1, IR_VERSION), message(7, body), message(8, opset)]);
}

function encodeNode({ op, inputs, output, ints = {} }: OnnxNode): Uint8Array {
  const attributes = Object.entries(ints).map(([name, value]) =>
    message(
      5,
      typeof value === 'number'
        ? join([text(1, name), whole(3, value), whole(20, INT)])
        : join([text(1, name), ...value.map((i) => whole(8, i)), whole(20, INTS)]),
    ),
  );
  return join([
    ...inputs.map((name) => text(1, name)),
    text(2, output),
    text(4, op),
    ...attributes,
  ]);
}

function encodeTensor(name: string, shape: Shape, data: Float32Array | BigInt64Array): Uint8Array {
  const type = data instanceof Float32Array ? FLOAT : INT64;
  const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return join([...shape.map((d) => whole(1, d)), whole(2, type), text(8, name), message(9, raw)]);
}

function encodeValueInfo(name: string, shape: Shape): Uint8Array {
  const dims = join(shape.map((d) => message(1, whole(1, d))));
  const tensor = join([whole(1, FLOAT), message(2, dims)]);
  return join([text(1, name), message(2, message(1, tensor))]);
}

// ---- protocol buffers -----------------------------------------------------------------------------------------------

const [VARINT, DELIMITED] = [0, 2];

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
