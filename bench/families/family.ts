import type { AnyLadder } from '../../src/kernels/ladders.ts';
import type { Precision } from '../../src/kernels/precision.ts';

/** A size or a choice of a case: `m` 256, `layout` channel. */
export type Size = number | string;
export type CaseSizes = Readonly<Record<string, Size>>;

/** One thing that a case says of itself; a flag of the same name gives it a list of values. */
export interface Axis {
  readonly name: string;
  readonly help: string;
  /** The words that it may be; a whole number if left out. */
  readonly words?: readonly string[];
  /** The least number; 1 if left out. */
  readonly least?: number;
  /** A case that does not say it is taken with every word. */
  readonly every?: boolean;
  /** What it is where a case does not say it, from what was said before it; a case must say it if left out. */
  readonly usual?: (sizes: CaseSizes) => Size;
}

/** One of the operations that a case is measured in: forward, a gradient. */
export interface Pass {
  readonly name: string;
  /** It may depend on a case's choices, as the kinds of attention do. */
  ladder(sizes: CaseSizes): AnyLadder;
  /** Throws a `UserError` for sizes that do not go together. */
  dims(sizes: CaseSizes): object;
}

/** What `wgsagan bench NAME` measures. */
export interface Family {
  readonly name: string;
  readonly help: string;
  readonly axes: readonly Axis[];
  readonly passes: readonly Pass[];
  /** The cases of a call that names none; those of a software adapter take less than two minutes. */
  usualCases(software: boolean): readonly Readonly<Record<string, Size>>[];
  label(sizes: CaseSizes): string;
}

/** A number among the sizes; every axis has its value when a family sees it. */
export function num(sizes: CaseSizes, name: string): number {
  const value = sizes[name];
  if (typeof value !== 'number') throw new Error(`the case says no number ${name}`);
  return value;
}

/** How exactly a case multiplies, of a family whose ladders serve f16. */
export const precisionAxis: Axis = {
  name: 'precision',
  help: 'f32; f16: operands in f32 that a rung may round to f16; stored-f16: tensors of f16',
  words: ['f32', 'f16', 'stored-f16'],
  usual: () => 'f32',
};

/** Of what the tensors are, in a family that has no products to round. */
export const storedAxis: Axis = {
  ...precisionAxis,
  help: 'f32; stored-f16: tensors of f16',
  words: ['f32', 'stored-f16'],
};

/** What the axis says, as a part of a ladder's sizes. */
export function precisionIn(sizes: CaseSizes): Precision {
  if (sizes['precision'] === 'f16') return { precision: 'f16' };
  return sizes['precision'] === 'stored-f16' ? { stored: 'f16' } : {};
}

/** The end of a case's label: nothing for f32. */
export function precisionLabel({ precision = 'f32' }: CaseSizes): string {
  return precision === 'f32' ? '' : ` ${precision}`;
}
