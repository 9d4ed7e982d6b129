import { ceilDiv } from '../util/shape.ts';
import { linearGrid } from './kernel.ts';
import type { Grid } from './kernel.ts';

export interface RowsOptions {
  /** Units of the innermost axis (elements, or vec4s). */
  readonly units: number;
  /** Threads of a workgroup. */
  readonly each: number;
  /** 1: a workgroup stays in one row. 0: threads walk rows × units in a line. */
  readonly rows: number;
}

/**
 * Grid of a kernel over `rows` × `units`, in the form that its `ROWS` constant names. In the row form a kernel finds its
 * row as `group.z * groups.y + group.y` (the same for a whole workgroup, so its divisions are scalar) and masks the
 * tail.
 */
export function rowsGrid(count: number, { units, each, rows }: RowsOptions): Grid {
  if (rows === 0) return linearGrid(count * units, each);
  const z = ceilDiv(count, 65535);
  return [ceilDiv(units, each), ceilDiv(count, z), z];
}

/** The value of `ROWS`: the row form where a row keeps most of a workgroup busy. */
export function rowsForm(units: number, each: number): 0 | 1 {
  const groups = ceilDiv(units, each);
  return groups <= 65535 && units / (groups * each) >= 0.75 ? 1 : 0;
}
