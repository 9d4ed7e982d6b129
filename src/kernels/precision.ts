import type { Stored } from '../gpu/wgsl.ts';

/**
 * How exactly an operation has to multiply, a part of its sizes. Sums are f32 whatever is asked.
 *
 * | asked             | tensors in memory | operands of a product                         |
 * |-------------------|-------------------|-----------------------------------------------|
 * | nothing           | f32               | f32                                           |
 * | `precision: f16`  | f32               | may be rounded to f16 on their way to a rung  |
 * | `stored: f16`     | f16               | f16                                           |
 *
 * `stored: f32` is the same as nothing.
 */
export interface Precision {
  readonly precision?: 'f16' | undefined;
  readonly stored?: Stored | undefined;
}

/** True if operands may be multiplied as f16: the rungs that round them never run otherwise. */
export const mayRound = ({ precision, stored }: Precision) =>
  precision === 'f16' || stored === 'f16';

/** True for tensors in f32: all that a rung without `Stored` reads. */
export const inFloats = ({ stored }: Precision) => stored !== 'f16';

export const storedOf = ({ stored }: Precision): Stored => stored ?? 'f32';

/** Bytes of an element of a tensor. */
export const bytesOf = ({ stored }: Precision) => (stored === 'f16' ? 2 : 4);

/** The fields of a `Precision` that are set, so that the sizes of plain f32 name the same entry of a cache as ever. */
export function precisionOf({ precision, stored }: Precision): Precision {
  return {
    ...(precision === undefined ? {} : { precision }),
    ...(stored === 'f16' ? { stored } : {}),
  };
}
