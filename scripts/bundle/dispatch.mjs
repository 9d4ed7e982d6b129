// What a launch costs: a replayed program of a thousand small additions, each of which needs the one before (`chained`) or
// none of which does (`apart`), and the way there and back of no work at all. Writes JSON to the file that argv names.
import { writeFileSync } from 'node:fs';
import { load } from '../lib/source.mjs';

const LAUNCHES = 1000;
const ELEMENTS = 64;
const REPEATS = 20;

const { openGpu } = await load('gpu/device');
const { Tape } = await load('autograd/tape');
const { tensor } = await load('autograd/tensor');
const { affine } = await load('ops/pointwise');

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** Replays `step` and returns medians in microseconds a launch: encoded and submitted, until the device is done, in passes
 * of its own on the device's clock. */
async function measure(gpu, step, check = async () => undefined) {
  const program = await gpu.capture(step).build();
  const launches = program.entries.length;
  if (launches !== LAUNCHES) throw new Error(`${launches} launches were captured, not ${LAUNCHES}`);
  const perLaunch = (ms) => (ms * 1000) / launches;
  for (let i = 0; i < 3; i++) program.run();
  await gpu.sync();
  await check();
  const [encode, wall] = [[], []];
  for (let i = 0; i < REPEATS; i++) {
    const began = performance.now();
    program.run();
    encode.push(perLaunch(performance.now() - began));
    await gpu.sync();
    wall.push(perLaunch(performance.now() - began));
  }
  const stamped = gpu.features.has('timestamp-query') ? await program.profile() : [];
  const clockUs = stamped.length === 0 ? null : median(stamped.map(({ ms }) => ms * 1000));
  program.destroy();
  return { launches, encodeUs: median(encode), wallUs: median(wall), clockUs };
}

/** Milliseconds. */
async function median20(action) {
  const times = [];
  for (let i = 0; i < REPEATS; i++) {
    const began = performance.now();
    await action();
    times.push(performance.now() - began);
  }
  return median(times);
}

const gpu = await openGpu({});
const tape = new Tape(gpu);
const x = tensor(tape, new Float32Array(ELEMENTS), [ELEMENTS]);
const next = (y) => affine(y, 1, 1);

let last = x;
const chain = () => {
  for (let i = 0; i < LAUNCHES; i++) last = next(last);
  return [last.storage];
};
const chained = await measure(gpu, chain, async () => {
  const wrong = (await last.read()).find((value) => value !== LAUNCHES);
  if (wrong !== undefined) throw new Error(`the chain gave ${wrong}, not ${LAUNCHES}`);
});
const apart = await measure(gpu, () => Array.from({ length: LAUNCHES }, () => next(x).storage));
const syncUs = 1000 * (await median20(() => gpu.sync()));
const readUs = 1000 * (await median20(() => x.read()));

const result = { adapter: gpu.adapter.name, elements: ELEMENTS, chained, apart, syncUs, readUs };
writeFileSync(process.argv[2], `${JSON.stringify(result, null, 2)}\n`);
for (const [name, { encodeUs, wallUs, clockUs }] of Object.entries({ chained, apart })) {
  const clock = clockUs === null ? '' : `, ${clockUs.toFixed(2)} µs on the device's clock`;
  process.stdout.write(
    `${name.padEnd(8)} ${encodeUs.toFixed(2)} µs to encode a launch, ${wallUs.toFixed(2)} µs until it is done${clock}\n`,
  );
}
process.stdout.write(
  `sync     ${syncUs.toFixed(0)} µs with nothing to do, ${readUs.toFixed(0)} µs with a value read\n`,
);
gpu.close();
process.exit(0);
