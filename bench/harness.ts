import type { Gpu } from '../src/gpu/device.ts';
import type { Program } from '../src/gpu/program.ts';
import type { Storage } from '../src/gpu/storage.ts';
import { timePasses } from '../src/gpu/timing.ts';
import type { Tile } from '../src/kernels/kernel.ts';
import type { AnyLadder, AnyRung } from '../src/kernels/ladders.ts';
import { inFloats } from '../src/kernels/precision.ts';
import { choose, runPicked, servedSizes } from '../src/kernels/rung.ts';
import { UserError } from '../src/util/errors.ts';
import { Flusher } from './flush.ts';
import { asHalves, operandsOf, packed, unpacked } from './operands.ts';
import type { Operand } from './operands.ts';
import { oracleOf } from './oracles/all.ts';
import { randomFloats } from './oracles/oracle.ts';
import type { Oracle } from './oracles/oracle.ts';
import { summarise } from '../src/util/statistics.ts';
import type { Summary } from '../src/util/statistics.ts';
import { WrongKernelError, complaintAbout, expectedOf } from './verify.ts';
import type { Expected } from './verify.ts';

/** One operation of given sizes. */
export interface Task {
  readonly ladder: AnyLadder;
  readonly dims: object;
  /** For messages. */
  readonly label: string;
  /** What the ladder must compute; the one of its name if left out. */
  readonly oracle?: Oracle;
}

export interface HarnessOptions {
  /** Samples of each candidate. */
  readonly rounds: number;
  /** Most seconds for the rounds of one task; each candidate gets three samples, or fewer that take as long by themselves. */
  readonly seconds: number;
  /** Every legal tile of every rung, and not only the one that would run. */
  readonly everyTile?: boolean;
  /** Leaves out what takes so many times longer than the fastest in its first run. Default: nothing is left out. */
  readonly dropSlower?: number;
  /** Touch a large buffer before every sample, so that no operand waits in a cache. Default true. */
  readonly flush?: boolean;
  /** What becomes of a wrong kernel: it is thrown if this is left out, and told here, and left out, otherwise. */
  readonly onWrong?: (error: WrongKernelError) => void;
}

/** A rung in one tile, measured or left out. */
export interface Measured {
  readonly rung: string;
  readonly tile: Tile;
  /** What runs for these sizes on this adapter. */
  readonly shipped: boolean;
  /** Milliseconds; absent if it was left out. */
  readonly ms?: Summary;
  /** Bytes of operands and scratch; absent if they cannot be had. */
  readonly memoryBytes?: number;
  /** Entries of the outputs that were compared with float64. */
  readonly verified?: number;
  /** Why it was left out. */
  readonly left?: string;
}

interface Candidate {
  readonly rung: AnyRung;
  readonly tile: Tile;
  /** It is of f32 and works between copies of tensors in f16, which are measured with it. */
  readonly widened: boolean;
  readonly shipped: boolean;
}

interface Entrant extends Candidate {
  readonly program: Program;
  readonly memoryBytes: number;
  readonly samples: number[];
}

/**
 * Verifies every rung that fits, warms it up, and times them in turn, a sample of each a round, on the GPU's clock.
 * Throws a `WrongKernelError` naming the rung, the sizes and the worst element where one computes something else.
 */
export async function measure(
  gpu: Gpu,
  task: Task,
  options: HarnessOptions,
): Promise<readonly Measured[]> {
  const bench = await Bench.open(gpu, task);
  try {
    return await bench.run(options);
  } finally {
    bench.close();
  }
}

/** Rungs that fit, each in the tiles asked for; what ships is marked. */
function candidatesOf(gpu: Gpu, { ladder, dims }: Task, everyTile: boolean): Candidate[] {
  const shipped = choose(gpu, ladder, dims);
  const same = (rung: AnyRung, tile: Tile) =>
    rung === shipped.rung && JSON.stringify(tile) === JSON.stringify(shipped.tile);
  return ladder.rungs.flatMap((rung) => {
    const served = servedSizes(gpu, { ladder, rung, dims });
    if (served === undefined) return [];
    const legal = rung.tiles(gpu, served);
    const one = rung === shipped.rung ? [shipped.tile] : legal.slice(0, 1);
    const widened = served !== dims;
    return (everyTile ? legal : one).map((tile) => {
      return { rung, tile, widened, shipped: same(rung, tile) };
    });
  });
}

/** The operands of one task on the device, and what comes out of them. */
class Bench {
  readonly #gpu: Gpu;
  readonly #task: Task;
  readonly #operands: readonly Operand[];
  readonly #storages: Readonly<Record<string, Storage>>;
  readonly #inputs: Readonly<Record<string, Float32Array<ArrayBuffer>>>;
  readonly #expected: Expected;

  private constructor(
    parts: { gpu: Gpu; task: Task },
    made: {
      operands: readonly Operand[];
      storages: Readonly<Record<string, Storage>>;
      inputs: Readonly<Record<string, Float32Array<ArrayBuffer>>>;
      expected: Expected;
    },
  ) {
    this.#gpu = parts.gpu;
    this.#task = parts.task;
    this.#operands = made.operands;
    this.#storages = made.storages;
    this.#inputs = made.inputs;
    this.#expected = made.expected;
  }

  static async open(gpu: Gpu, task: Task): Promise<Bench> {
    const { ladder, dims } = task;
    const oracle = task.oracle ?? oracleOf(ladder.name);
    if (!inFloats(dims) && !gpu.features.has('shader-f16')) {
      throw new UserError(`${task.label}: tensors of f16 need shader-f16, which this device lacks`);
    }
    const operands = operandsOf(ladder, dims);
    const storages: Record<string, Storage> = {};
    try {
      for (const { name, bytes } of operands) {
        storages[name] = gpu.alloc(bytes, `${ladder.name} ${name}`);
      }
      const inputs: Record<string, Float32Array<ArrayBuffer>> = {};
      operands.forEach((operand, i) => {
        const { name, n, halves } = operand;
        const storage = storages[name];
        const given = !ladder.outputs.includes(name) || oracle.changes?.includes(name) === true;
        if (storage === undefined || !given) return;
        const random = randomFloats(n, i, oracle.range?.(dims, name));
        const data = halves ? asHalves(random) : random;
        inputs[name] = data;
        gpu.write(storage, packed(data, operand));
      });
      if (oracle.prepare !== undefined) {
        oracle.prepare(gpu, dims, storages);
        for (const operand of operands) {
          const [storage, given] = [storages[operand.name], inputs[operand.name]];
          if (storage && given) inputs[operand.name] = unpacked(await gpu.read(storage), operand);
        }
      }
      const halves = operands.filter(({ stored }) => stored === 'f16').map(({ name }) => name);
      const expected = expectedOf(oracle, dims, inputs, { halves: new Set(halves) });
      return new Bench({ gpu, task }, { operands, storages, inputs, expected });
    } catch (error) {
      for (const storage of Object.values(storages)) gpu.release(storage);
      throw error;
    }
  }

  async run(options: HarnessOptions): Promise<Measured[]> {
    const { everyTile = false, dropSlower = Infinity, flush = true } = options;
    const candidates = candidatesOf(this.#gpu, this.#task, everyTile);
    // What ships is what the others have to come near.
    if (dropSlower < Infinity) candidates.sort((a, b) => Number(b.shipped) - Number(a.shipped));
    const flusher = flush ? await Flusher.open(this.#gpu) : undefined;
    const entrants: Entrant[] = [];
    const left: Measured[] = [];
    let best = Infinity;
    try {
      for (const candidate of candidates) {
        const { rung, tile, shipped } = candidate;
        const leave = (why: string) => left.push({ rung: rung.name, tile, shipped, left: why });
        const entrant = await this.#build(candidate).catch((error: unknown) => {
          // What passes a limit of the device, or its memory, is no mistake of the kernel's.
          if (!(error instanceof UserError)) throw error;
          leave(error.message);
          return undefined;
        });
        if (entrant === undefined) continue;
        entrants.push(entrant);
        const drop = (why: string) => {
          leave(why);
          entrants.pop();
          entrant.program.destroy();
        };
        const wrong = await this.#verify(entrant);
        if (wrong !== undefined) {
          if (options.onWrong === undefined) throw wrong;
          options.onWrong(wrong);
          drop('computes something else');
          continue;
        }
        // The run that was verified has compiled it.
        const [ms = Infinity] = await timePasses(this.#gpu, [entrant.program.entries]);
        best = Math.min(best, ms);
        if (ms > dropSlower * best) drop(`${(ms / best).toFixed(1)} times slower at first`);
      }
      await this.#race(entrants, flusher, options);
    } finally {
      for (const { program } of entrants) program.destroy();
      flusher?.close();
    }
    const measured = entrants.map(({ rung, tile, shipped, memoryBytes, samples }) => ({
      ...{ rung: rung.name, tile, shipped, memoryBytes },
      ms: summarise(samples),
      verified: this.#expected.count,
    }));
    return [...measured, ...left];
  }

  async #build(candidate: Candidate): Promise<Entrant> {
    const { ladder, dims } = this.#task;
    const args = ladder.argsOf(dims, this.#storages);
    const capture = this.#gpu.capture(() => {
      runPicked(this.#gpu, { ladder, args, picked: candidate });
      return [];
    });
    const program = await capture.build();
    const operands = Object.values(this.#storages).reduce((sum, s) => sum + s.bytes, 0);
    const memoryBytes = operands + program.memory.plannedBytes;
    return { ...candidate, program, memoryBytes, samples: [] };
  }

  /** One run on outputs full of NaN, but for those that are inputs too, and what is wrong with them afterwards. */
  async #verify({ rung, tile, program }: Entrant): Promise<WrongKernelError | undefined> {
    const gpu = this.#gpu;
    const { ladder, label } = this.#task;
    const written = this.#operands.filter(({ name }) => ladder.outputs.includes(name));
    for (const operand of written) {
      const { name, n } = operand;
      const data = this.#inputs[name] ?? new Float32Array(n).fill(NaN);
      const storage = this.#storages[name];
      if (storage) gpu.write(storage, packed(data, operand));
    }
    program.run();
    const outputs = new Map<string, Float32Array>();
    for (const operand of written) {
      const storage = this.#storages[operand.name];
      if (storage) outputs.set(operand.name, unpacked(await gpu.read(storage), operand));
    }
    const complaint = complaintAbout(outputs, this.#expected);
    if (complaint === undefined) return undefined;
    return new WrongKernelError(`${rung.name}${showTile(tile)} is wrong at ${label}: ${complaint}`);
  }

  /** Rounds of one sample of each in turn, so that a busy machine slows all alike. */
  async #race(
    entrants: readonly Entrant[],
    flusher: Flusher | undefined,
    { rounds, seconds }: HarnessOptions,
  ): Promise<void> {
    const started = performance.now();
    const late = () => (performance.now() - started) / 1000 > seconds;
    for (let round = 0; round < rounds; round++) {
      if (round >= 3 && late()) return;
      const runners = entrants.filter(({ samples }) => sumOf(samples) < 1000 * seconds);
      if (runners.length === 0) return;
      const passes = runners.flatMap(({ program }) => [
        ...(flusher === undefined ? [] : [flusher.entries]),
        program.entries,
      ]);
      const times = await timePasses(this.#gpu, passes);
      const each = flusher === undefined ? 1 : 2;
      runners.forEach(({ samples }, i) => samples.push(times[each * i + each - 1] ?? NaN));
    }
  }

  close(): void {
    for (const storage of Object.values(this.#storages)) this.#gpu.release(storage);
  }
}

const sumOf = (samples: readonly number[]) => samples.reduce((sum, ms) => sum + ms, 0);

/** ` (BM 128, BN 64)`, or nothing for a rung without constants. */
export function showTile(tile: Tile): string {
  const constants = Object.entries(tile).map(([name, value]) => `${name} ${value}`);
  return constants.length === 0 ? '' : ` (${constants.join(', ')})`;
}
