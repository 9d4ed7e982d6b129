// The operands of a ladder in memory: f32, or f16 where the sizes say so.
import type { HostArray } from '../src/gpu/device.ts';
import type { Stored } from '../src/gpu/wgsl.ts';
import type { AnyLadder } from '../src/kernels/ladders.ts';
import { bytesOf, mayRound, storedOf } from '../src/kernels/precision.ts';
import { bitsOfHalf, halfFromBits, packHalves, unpackHalves } from '../src/util/half.ts';

export interface Operand {
  readonly name: string;
  /** Elements. */
  readonly n: number;
  readonly bytes: number;
  readonly stored: Stored;
  /** Its values have to be such as f16 holds: rungs read it as f16, or may round it to that. */
  readonly halves: boolean;
}

export function operandsOf(ladder: AnyLadder, dims: object): Operand[] {
  const ofHalves = new Set(ladder.halves);
  return Object.entries(ladder.operands(dims)).map(([name, n]) => {
    const precision = ofHalves.has(name) ? dims : {};
    const bytes = Math.max(4, bytesOf(precision) * n);
    return { name, n, bytes, stored: storedOf(precision), halves: mayRound(precision) };
  });
}

/** Values as they are uploaded. */
export function packed(
  values: Float32Array<ArrayBuffer>,
  { stored }: Pick<Operand, 'stored'>,
): HostArray {
  return stored === 'f16' ? packHalves(values) : values;
}

/** Values of what was read back. */
export function unpacked(bytes: ArrayBuffer, { n, stored }: Operand): Float32Array<ArrayBuffer> {
  return stored === 'f16' ? unpackHalves(bytes, n) : new Float32Array(bytes, 0, n);
}

/** The nearest values that f16 holds. */
export function asHalves(values: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  return values.map((value) => halfFromBits(bitsOfHalf(value)));
}
