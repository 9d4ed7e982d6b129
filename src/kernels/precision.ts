import type { Gpu } from '../gpu/device.ts';
import type { Stored } from '../gpu/wgsl.ts';

/**
 * How exactly an operation has to multiply, a part of its sizes. Sums are f32 whatever is asked.
 *
 * | asked             | tensors in memory | operands of a product                         |
 * |-------------------|-------------------|-----------------------------------------------|
 * | nothing           | f32               | f32                                           |
 * | `precision: f16`  | f32               | may be rounded to f16 on their way to a rung  |
 * | `stored: f16`     | f16               | f16                                           |
 */
export interface Precision {
  readonly precision?: 'f16' | undefined;
  readonly stored?: 'f16' | undefined;
}

/** True if operands may be multiplied as f16: the rungs that round them never run otherwise. */
export const mayRound = ({ precision, stored }: Precision) =>
  precision === 'f16' || stored === 'f16';

export const storedOf = ({ stored }: Precision): Stored => stored ?? 'f32';

/** Bytes of an element of a tensor. */
export const bytesOf = ({ stored }: Precision) => (stored === 'f16' ? 2 : 4);

/** The fields of a `Precision` that are set, so that the sizes of plain f32 name the same entry of a cache as ever. */
export function precisionOf({ precision, stored }: Precision): Precision {
  return {
    ...(precision === undefined ? {} : { precision }),
    ...(stored === undefined ? {} : { stored }),
  };
}

/** What a product of subgroup matrices is made of: [MM, MK] · [MK, MN] by the LANES of a subgroup. */
export interface MatrixTile {
  readonly MM: number;
  readonly MN: number;
  readonly MK: number;
  readonly LANES: number;
}

export const matrixFeatures = [
  'shader-f16',
  'subgroups',
  'chromium-experimental-subgroup-matrix',
] as const;

/**
 * The products of f16 matrices with f32 sums that the device offers, those with the most multiply-adds first. None where
 * its subgroups have no one size: which lanes hold a matrix would not be known when a kernel is made.
 */
export function matrixTiles({ adapter, features }: Gpu): MatrixTile[] {
  const [least, LANES] = adapter.subgroupSizes;
  if (least !== LANES || !matrixFeatures.every((feature) => features.has(feature))) return [];
  return adapter.matrixConfigs
    .map((config) => /^f16→f32 (\d+)×(\d+)×(\d+)$/.exec(config)?.slice(1).map(Number) ?? [])
    .map(([MM = 0, MN = 0, MK = 0]) => ({ MM, MN, MK, LANES }))
    .filter(({ MM, MN, MK }) => MM > 0 && (MM * MN) % LANES === 0 && 32 % MK === 0)
    .sort((a, b) => b.MM * b.MN * b.MK - a.MM * a.MN * a.MK);
}
