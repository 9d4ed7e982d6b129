/**
 * Milliseconds of a fixed piece of arithmetic, of about a millisecond. What else a machine does slows it as it slows what is
 * measured beside it, so a ratio to it can be compared over an hour.
 */
export function referenceMs(): number {
  const started = performance.now();
  let x = 0.5;
  for (let i = 0; i < 300_000; i++) x = 3.7 * x * (1 - x);
  if (!(x > 0)) throw new Error('the logistic map left its interval');
  return performance.now() - started;
}
