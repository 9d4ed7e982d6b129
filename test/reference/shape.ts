// Shapes and moves: broadcasting, concat, slice, permute. Moves round nothing, except where a gradient adds.
import { type Data, type Round } from './naive.ts';

export type Shape = readonly number[];

export function numel(shape: Shape): number {
  return shape.reduce((n, d) => n * d, 1);
}

export function strides(shape: Shape): number[] {
  const s = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) s[i] = s[i + 1]! * shape[i + 1]!;
  return s;
}

/** Index of each axis for flat position `flat`. */
export function unravel(flat: number, shape: Shape): number[] {
  const index = new Array<number>(shape.length);
  for (let i = shape.length - 1; i >= 0; i--) {
    index[i] = flat % shape[i]!;
    flat = Math.floor(flat / shape[i]!);
  }
  return index;
}

export function ravel(index: readonly number[], shape: Shape): number {
  let flat = 0;
  for (let i = 0; i < shape.length; i++) flat = flat * shape[i]! + index[i]!;
  return flat;
}

export function broadcastShape(a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length);
  const out: number[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1)
      throw new Error(`[${a.join(', ')}] and [${b.join(', ')}] do not broadcast`);
    out.push(x === 1 ? y : x);
  }
  return out;
}

/** For each flat position of `out`, the flat position of `shape` (aligned at the right) that it reads. */
export function broadcastOffsets(shape: Shape, out: Shape): number[] {
  const lead = out.length - shape.length;
  const offsets: number[] = [];
  for (let i = 0; i < numel(out); i++) {
    const index = unravel(i, out).slice(lead);
    offsets.push(
      ravel(
        index.map((v, axis) => (shape[axis] === 1 ? 0 : v)),
        shape,
      ),
    );
  }
  return offsets;
}

export interface Concat {
  readonly xs: readonly Data[];
  readonly shapes: readonly Shape[];
  readonly axis: number;
}

export function concatShape(shapes: readonly Shape[], axis: number): number[] {
  const shape = [...shapes[0]!];
  shape[axis] = shapes.reduce((n, s) => n + s[axis]!, 0);
  return shape;
}

/** Calls `visit(part, offset in the part, offset in the whole)`. */
function eachConcat(o: Concat, visit: (part: number, i: number, j: number) => void): void {
  const whole = concatShape(o.shapes, o.axis);
  let start = 0;
  o.shapes.forEach((shape, part) => {
    for (let i = 0; i < numel(shape); i++) {
      const index = unravel(i, shape);
      index[o.axis] = index[o.axis]! + start;
      visit(part, i, ravel(index, whole));
    }
    start += shape[o.axis]!;
  });
}

export function concat(o: Concat, _r: Round): Float64Array {
  const y = new Float64Array(numel(concatShape(o.shapes, o.axis)));
  eachConcat(o, (part, i, j) => {
    y[j] = o.xs[part]![i]!;
  });
  return y;
}

export function concatBackward(o: Concat, dy: Data, _r: Round): { dxs: Float64Array[] } {
  const dxs = o.shapes.map((s) => new Float64Array(numel(s)));
  eachConcat(o, (part, i, j) => {
    dxs[part]![i] = dy[j]!;
  });
  return { dxs };
}

export interface Slice {
  readonly x: Data;
  readonly shape: Shape;
  /** First index kept, and the first one no longer kept, of every axis. */
  readonly start: readonly number[];
  readonly end: readonly number[];
}

function eachSlice(o: Slice, visit: (i: number, j: number) => void): void {
  const out = o.start.map((s, axis) => o.end[axis]! - s);
  for (let j = 0; j < numel(out); j++) {
    const index = unravel(j, out).map((v, axis) => v + o.start[axis]!);
    visit(ravel(index, o.shape), j);
  }
}

export function slice(o: Slice, _r: Round): Float64Array {
  const y = new Float64Array(o.start.reduce((n, s, axis) => n * (o.end[axis]! - s), 1));
  eachSlice(o, (i, j) => {
    y[j] = o.x[i]!;
  });
  return y;
}

export function sliceBackward(o: Slice, dy: Data, _r: Round): { dx: Float64Array } {
  const dx = new Float64Array(o.x.length);
  eachSlice(o, (i, j) => {
    dx[i] = dy[j]!;
  });
  return { dx };
}

export interface Permute {
  readonly x: Data;
  readonly shape: Shape;
  /** Axis of x that becomes axis i of the result, as torch.permute. */
  readonly order: readonly number[];
}

function eachPermuted(o: Permute, visit: (i: number, j: number) => void): void {
  const out = o.order.map((axis) => o.shape[axis]!);
  for (let j = 0; j < numel(out); j++) {
    const to = unravel(j, out);
    const from = new Array<number>(to.length);
    o.order.forEach((axis, i) => {
      from[axis] = to[i]!;
    });
    visit(ravel(from, o.shape), j);
  }
}

export function permute(o: Permute, _r: Round): Float64Array {
  const y = new Float64Array(o.x.length);
  eachPermuted(o, (i, j) => {
    y[j] = o.x[i]!;
  });
  return y;
}

export function permuteBackward(o: Permute, dy: Data, _r: Round): { dx: Float64Array } {
  const dx = new Float64Array(o.x.length);
  eachPermuted(o, (i, j) => {
    dx[i] = dy[j]!;
  });
  return { dx };
}
