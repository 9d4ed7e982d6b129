// Cases of ops as tests.
import { describe, test } from 'vitest';
import type { Tape } from '../../src/autograd/tape.ts';
import { checkOp, type OpCase } from './ops.ts';

/** Runs cases one by one, each a test of its name; again on f16 where a case says how and the device has it. */
export function eachCase(tape: Tape): (family: string, cases: readonly OpCase[]) => void {
  const halves = test.skipIf(!tape.gpu.features.has('shader-f16'));
  return (family, cases) => {
    describe(family, () => {
      test.each(cases)('$name', async (check) => {
        await checkOp(tape, check);
      });
      halves.each(cases.filter((check) => check.halves !== undefined))(
        '$name, of f16',
        async (check) => {
          await checkOp(tape, check, 'f16');
        },
      );
    });
  };
}
