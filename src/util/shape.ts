/** A tensor's sizes, outermost first. `[]` is a scalar with one element. */
export type Shape = readonly number[];

/** Number of elements of a tensor of this shape. */
export function sizeOf(shape: Shape): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/** `[2, 3, 4]` as text for messages. */
export function showShape(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i]);
}

/** ⌈a / b⌉ in floating point: byte counts pass 2³¹. */
export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}

/** `n` rounded up to a multiple of `multiple`. */
export function roundUp(n: number, multiple: number): number {
  return Math.ceil(n / multiple) * multiple;
}

/** Size of axis `i` (negative counts from the end); throws where there is none. */
export function dim(shape: Shape, i: number): number {
  const d = shape[i < 0 ? shape.length + i : i];
  if (d === undefined) throw new RangeError(`axis ${i} of ${showShape(shape)} does not exist`);
  return d;
}

/** NumPy's and PyTorch's broadcast of two shapes; throws with both shapes where they do not meet. */
export function broadcastShape(a: Shape, b: Shape, op = 'broadcast'): number[] {
  const rank = Math.max(a.length, b.length);
  const out: number[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new RangeError(
        `${op}: shapes ${showShape(a)} and ${showShape(b)} do not broadcast: ${x} ≠ ${y} at axis ${i - rank}`,
      );
    }
    out.push(x === 1 ? y : x);
  }
  return out;
}
