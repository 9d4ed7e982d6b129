/** IEEE binary16 on the host: Node 20 has no Float16Array. */

/** The value of 16 bits. */
export function halfFromBits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0
    ? sign * fraction * 2 ** -24
    : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The bits of the f16 nearest to a value, ties to even; infinity from 65520 on. */
export function bitsOfHalf(x: number): number {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const a = Math.abs(x);
  if (a >= 65520) return sign | 0x7c00;
  // Below 2⁻¹⁴ the steps are those of the subnormal numbers. A fraction that rounds up to 2¹⁰ makes the next exponent.
  const exponent = Math.max(-14, Math.floor(Math.log2(a)));
  const steps = roundToEven(a / 2 ** (exponent - 10));
  return sign | (exponent === -14 ? steps : ((exponent + 14) << 10) + steps);
}

function roundToEven(x: number): number {
  const below = Math.floor(x);
  const rest = x - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** Values as f16, rounded. */
export function packHalves(values: ArrayLike<number>): Uint16Array<ArrayBuffer> {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = bitsOfHalf(values[i] ?? NaN);
  return bits;
}

/** The values of n f16. */
export function unpackHalves(bytes: ArrayBuffer, n: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(new Uint16Array(bytes, 0, n), halfFromBits);
}
