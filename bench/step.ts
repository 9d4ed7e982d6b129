/**
 * One training step of each preset asked for: time, GFLOP/s, launches, memory, and where the time goes by kernel.
 *   npx tsx bench/step.ts [--adapter auto] [--repeat 10] [--profile] [preset[:batch]]…
 * Writes bench/results/step-<adapter>.json.
 */
import { parseArgs } from 'node:util';
import { tensor } from '../src/autograd/tensor.ts';
import { Tape } from '../src/autograd/tape.ts';
import { openGpu } from '../src/gpu/device.ts';
import type { Gpu } from '../src/gpu/device.ts';
import type { Program } from '../src/gpu/program.ts';
import { writeFileAtomic } from '../src/io/atomic.ts';
import { imageWords } from '../src/train/capacity.ts';
import { resolveConfig } from '../src/train/config.ts';
import { createGan, ganStep } from '../src/train/gan.ts';
import { percentile } from './statistics.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    adapter: { type: 'string', default: 'auto' },
    repeat: { type: 'string', default: '10' },
    profile: { type: 'boolean', default: false },
  },
});
const cases = positionals.length > 0 ? positionals : ['sagan-32-tiny', 'sagan-32:16'];
const repeat = Number(values.repeat);

interface StepResult {
  readonly preset: string;
  readonly batch: number;
  readonly launches: number;
  readonly gflop: number;
  readonly msMedian: number;
  readonly msP10: number;
  readonly msP90: number;
  readonly gflops: number;
  readonly stepsPerSecond: number;
  readonly plannedMiB: number;
  readonly unplannedMiB: number;
  readonly residentMiB: number;
  readonly encodeUsPerLaunch: number;
}

async function measure(gpu: Gpu, name: string): Promise<StepResult> {
  const [preset = '', batchText] = name.split(':');
  const asked = batchText === undefined ? { preset } : { preset, batch: Number(batchText) };
  const config = resolveConfig({ data: 'none', ...asked });
  const tape = new Tape(gpu);
  const gan = createGan(tape, config);
  const words = imageWords(config, config.batch);
  const bytes = [tensor(tape, new Uint32Array(words).fill(0x40c08020), [words])];
  const capture = gpu.capture(() => Object.values(ganStep(gan, bytes)).map((t) => t.storage));
  const program = await capture.build();
  for (let i = 0; i < 3; i++) program.run();
  await gpu.sync();
  const times: number[] = [];
  const encodes: number[] = [];
  for (let i = 0; i < repeat; i++) {
    const start = performance.now();
    program.run();
    encodes.push(performance.now() - start);
    await gpu.sync();
    times.push(performance.now() - start);
  }
  if (values.profile) await printProfile(program);
  const ms = percentile(times, 0.5);
  const { plannedBytes, unplannedBytes } = program.memory;
  const mib = (n: number) => n / 2 ** 20;
  return {
    preset,
    batch: config.batch,
    launches: program.entries.length,
    gflop: program.flops / 1e9,
    msMedian: ms,
    msP10: percentile(times, 0.1),
    msP90: percentile(times, 0.9),
    gflops: program.flops / ms / 1e6,
    stepsPerSecond: 1000 / ms,
    plannedMiB: mib(plannedBytes),
    unplannedMiB: mib(unplannedBytes),
    residentMiB: mib(gpu.pool.stats().liveBytes - plannedBytes),
    encodeUsPerLaunch: (percentile(encodes, 0.5) * 1000) / program.entries.length,
  };
}

async function printProfile(program: Program): Promise<void> {
  const rows = new Map<string, { calls: number; ms: number; flops: number; bytes: number }>();
  for (const { dispatch, ms } of await program.profile()) {
    const row = rows.get(dispatch.spec.name) ?? { calls: 0, ms: 0, flops: 0, bytes: 0 };
    row.calls += 1;
    row.ms += ms;
    row.flops += dispatch.flops;
    row.bytes += dispatch.traffic;
    rows.set(dispatch.spec.name, row);
  }
  const total = [...rows.values()].reduce((n, r) => n + r.ms, 0);
  console.log(`  GPU clock: ${total.toFixed(1)} ms`);
  for (const [name, r] of [...rows].sort((a, b) => b[1].ms - a[1].ms).slice(0, 30)) {
    const share = ((100 * r.ms) / total).toFixed(1).padStart(5);
    const rate = (r.flops / r.ms / 1e6).toFixed(1).padStart(6);
    const bandwidth = (r.bytes / r.ms / 1e6).toFixed(1).padStart(6);
    const calls = String(r.calls).padStart(4);
    console.log(
      `  ${share} %  ${r.ms.toFixed(2).padStart(8)} ms  ${calls}×  ${rate} GFLOP/s  ${bandwidth} GB/s  ${name}`,
    );
  }
}

const results: StepResult[] = [];
let adapter = '';
for (const name of cases) {
  const gpu = await openGpu({ adapter: values.adapter });
  adapter = gpu.adapter.name;
  const result = await measure(gpu, name);
  results.push(result);
  console.log(
    `${name}: ${result.msMedian.toFixed(1)} ms [${result.msP10.toFixed(1)}–${result.msP90.toFixed(1)}], ` +
      `${result.gflop.toFixed(2)} GFLOP, ${result.gflops.toFixed(1)} GFLOP/s, ${result.launches} launches, ` +
      `${result.plannedMiB.toFixed(0)} MiB planned, ${result.unplannedMiB.toFixed(0)} unplanned`,
  );
  gpu.close();
}
const file = `bench/results/step-${adapter.replaceAll(/[^\w.]+/g, '-').replace(/-$/, '')}.json`;
await writeFileAtomic(file, `${JSON.stringify({ adapter, repeat, results }, null, 2)}\n`);
