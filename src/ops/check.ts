/** Throws a RangeError naming `op` and the role unless `value` is a whole number of at least `least`. */
export function requireWhole(op: string, role: string, value: number, least: number): void {
  if (!Number.isInteger(value) || value < least) {
    throw new RangeError(`${op}: ${role} is ${value}; it must be a whole number from ${least}`);
  }
}
