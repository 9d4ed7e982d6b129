import type { Gpu } from '../src/gpu/device.ts';
import { measurePeaks } from '../src/kernels/peaks.ts';
import type { Peaks } from '../src/kernels/peaks.ts';
import { mayRound } from '../src/kernels/precision.ts';
import { UserError } from '../src/util/errors.ts';
import { environmentOf } from './environment.ts';
import type { CaseSizes, Family, Pass } from './families/family.ts';
import { measure } from './harness.ts';
import type { HarnessOptions, Measured } from './harness.ts';
import type { LadderCase, LadderResult, RungResult } from './results.ts';

export interface RunOptions extends HarnessOptions {
  /** Names of the passes to measure; all if left out. */
  readonly passes?: readonly string[] | undefined;
  /** The device's roofs, where they are known already. */
  readonly peaks?: Peaks;
  readonly onCase?: (made: LadderCase, place: { done: number; of: number }) => void;
}

/** Measures every case in every pass, each rung of it verified first. Throws a `WrongKernelError` for one that is wrong. */
export async function runFamily(
  gpu: Gpu,
  family: Family,
  cases: readonly CaseSizes[],
  options: RunOptions,
): Promise<LadderResult> {
  const passes = passesOf(family, options.passes);
  const peaks = options.peaks ?? (await measurePeaks(gpu));
  const made: LadderCase[] = [];
  const of = cases.length * passes.length;
  for (const sizes of cases) {
    for (const pass of passes) {
      const one = await runCase(gpu, { family, pass, sizes, peaks }, options);
      made.push(one);
      options.onCase?.(one, { done: made.length, of });
    }
  }
  const { rounds, seconds, flush = true } = options;
  return {
    kind: 'ladder',
    bench: family.name,
    environment: environmentOf(gpu),
    peaks,
    settings: { rounds, seconds, flush },
    cases: made,
  };
}

function passesOf(family: Family, names: readonly string[] | undefined): readonly Pass[] {
  if (names === undefined) return family.passes;
  return names.map((name) => {
    const pass = family.passes.find((p) => p.name === name);
    if (pass !== undefined) return pass;
    const all = family.passes.map((p) => p.name).join(', ');
    throw new UserError(`--pass ${name} is unknown; ${family.name} has ${all}`);
  });
}

async function runCase(
  gpu: Gpu,
  o: { family: Family; pass: Pass; sizes: CaseSizes; peaks: Peaks },
  options: RunOptions,
): Promise<LadderCase> {
  const { family, pass, sizes, peaks } = o;
  const ladder = pass.ladder(sizes);
  const dims = pass.dims(sizes);
  const label = family.label(sizes);
  const work = { flops: ladder.flops(dims), bytes: ladder.bytes(dims) };
  const task = { ladder, dims, label: `${label}, ${pass.name}` };
  // Where operands may be f16, tensor cores raise the roof.
  const cores = mayRound(dims) ? (peaks.matrixGflops ?? 0) : 0;
  const roofs = { gflops: Math.max(peaks.fmaGflops, cores), gbs: peaks.copyGBs };
  const rungs = (await measure(gpu, task, options)).map((one) => rated(one, work, roofs));
  return { label, pass: pass.name, ladder: ladder.name, sizes: { ...sizes }, ...work, rungs };
}

/** The rates of a time, and its share of the roof under which the operation stands. */
function rated(
  one: Measured,
  { flops, bytes }: { flops: number; bytes: number },
  roofs: { gflops: number; gbs: number },
): RungResult {
  const tile = { ...one.tile };
  if (one.ms === undefined) return { ...one, tile };
  const [gflops, gbs] = [flops / one.ms.median / 1e6, bytes / one.ms.median / 1e6];
  const [compute, memory] = [gflops / roofs.gflops, gbs / roofs.gbs];
  return {
    ...{ ...one, tile, gflops, gbs },
    percentOfPeak: 100 * Math.max(compute, memory),
    roof: compute >= memory ? 'compute' : 'memory',
  };
}
