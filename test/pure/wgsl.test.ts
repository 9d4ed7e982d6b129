import { describe, expect, test } from 'vitest';
import {
  bindingsOf,
  constOf,
  entriesOf,
  immediatesOf,
  rewriteConst,
  rewriteStored,
} from '../../src/gpu/wgsl.ts';

const source = `
// scale — out = scale · x; const WG = 1 in a comment is no constant
const WG = 64u;
const WIDTH: u32 = 8;
const SLOPE = 0.5f;
const OP = RELU;
const RELU = 0;
const WGX = 3;

struct Dims {
  n: u32, // elements; not: i32
  shift: i32,
  scale: f32,
}
var<immediate> dims: Dims;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1)
var<storage, read_write> out : array<f32>;
@group(0)@binding(0) var<storage,read> xQuads: array<vec4<f32>>;
var<workgroup> shared: array<f32, 64>;

@compute @workgroup_size(WG) fn main(@builtin(global_invocation_id) id: vec3u) {}
@compute
@workgroup_size(WG, 1, 1)
fn quads() {}
fn helper() {}
`;

describe('wgsl', () => {
  test('bindings come with name, number and access, whatever the spacing', () => {
    expect(bindingsOf(source)).toEqual([
      { name: 'x', binding: 0, access: 'read' },
      { name: 'out', binding: 1, access: 'read_write' },
      { name: 'xQuads', binding: 0, access: 'read' },
    ]);
    expect(bindingsOf('var<workgroup> t: array<f32, 4>;')).toEqual([]);
  });

  test('immediates are the fields of the struct, in order, comments left out', () => {
    expect(immediatesOf(source)).toEqual([
      { name: 'n', type: 'u32' },
      { name: 'shift', type: 'i32' },
      { name: 'scale', type: 'f32' },
    ]);
    expect(immediatesOf('@compute @workgroup_size(1) fn main() {}')).toEqual([]);
  });

  test('an immediate that is no 4-byte scalar is refused', () => {
    const vector = 'struct P { size: vec2u }\nvar<immediate> p: P;';
    expect(() => immediatesOf(vector)).toThrow(
      'immediate size has type vec2u; only u32, i32 and f32 are used',
    );
    expect(() => immediatesOf('var<immediate> p: Lost;')).toThrow(
      'struct Lost of the immediates is not in the file',
    );
  });

  test('entry points are the functions marked @compute', () => {
    expect(entriesOf(source)).toEqual(['main', 'quads']);
  });

  test('a constant is rewritten in its own type, and only that constant', () => {
    const changed = rewriteConst(source, 'WG', 32);
    expect(changed).toContain('const WG = 32u;');
    expect(changed.replace('const WG = 32u;', 'const WG = 64u;')).toBe(source);
    expect(rewriteConst(source, 'WIDTH', 4)).toContain('const WIDTH: u32 = 4;');
    expect(rewriteConst(source, 'SLOPE', 0.25)).toContain('const SLOPE = 0.25f;');
    expect(rewriteConst(source, 'OP', 'TANH')).toContain('const OP = TANH;');
  });

  test('rewriting twice gives the second value', () => {
    expect(rewriteConst(rewriteConst(source, 'WG', 32), 'WG', 128)).toContain('const WG = 128u;');
  });

  test('a constant that is not there, or only begins like one, is an error', () => {
    expect(() => rewriteConst(source, 'TILE', 4)).toThrow(
      'there is no module-scope const TILE to rewrite',
    );
    expect(() => rewriteConst(source, 'W', 4)).toThrow('no module-scope const W ');
    expect(() => constOf(source, 'TILE')).toThrow('there is no numeric module-scope const TILE');
  });

  test('a number is read with or without type and suffix; a name is no number', () => {
    expect(constOf(source, 'WG')).toBe(64);
    expect(constOf(source, 'WIDTH')).toBe(8);
    expect(constOf(source, 'SLOPE')).toBe(0.5);
    expect(constOf(source, 'WGX')).toBe(3);
    expect(() => constOf(source, 'OP')).toThrow('no numeric module-scope const OP');
  });

  test('tensors of Stored become f16, and f16 is enabled once', () => {
    const code = 'alias Stored = f32;\nvar<private> x: Stored;\n';
    expect(rewriteStored(code, 'f32')).toBe(code);
    expect(rewriteStored(code, 'f16')).toBe(
      'enable f16;\nalias Stored = f16;\nvar<private> x: Stored;\n',
    );
    const words = code.replace('= f32', '= u32');
    expect(rewriteStored(words, 'f16')).toBe(rewriteStored(code, 'f16'));
    const enabled = `// head\nenable f16;\n${code}`;
    expect(rewriteStored(enabled, 'f16')).toBe(enabled.replace('= f32', '= f16'));
    expect(() => rewriteStored(source, 'f16')).toThrow('no `alias Stored = f32;` to rewrite');
  });
});
