import type { Gpu } from '../gpu/device.ts';
import type { PipelineSpec } from '../gpu/pipelines.ts';
import { readText } from '../gpu/platform.ts';
import type { Storage } from '../gpu/storage.ts';
import { bindingsOf, constOf, entriesOf, immediatesOf, rewriteConst } from '../gpu/wgsl.ts';
import { ceilDiv } from '../util/shape.ts';

export type Dims<D extends string = string> = Readonly<Record<D, number>>;
export type Tile = Readonly<Record<string, number | string>>;
export type Grid = readonly [number, number, number];

/** What a kernel needs of the device; `run` refuses to launch without it, and `canRun` tells beforehand. */
export interface Needs {
  readonly features?: readonly string[];
  /** Bytes of workgroup memory. */
  readonly workgroupBytes?: number;
  readonly invocations?: number;
  readonly storageBuffers?: number;
}

/**
 * One entry point of one WGSL file. The file is the truth about bindings and immediates: `tensors` and `dims` name
 * them, and a name that the file does not have is an error at load.
 */
export interface KernelSpec<T extends string, D extends string> {
  /** Path inside `kernels/`. */
  readonly file: string;
  /** Entry point; `main` if left out. */
  readonly entry?: string;
  /** Storage variables that the entry uses, in the order of the formula, outputs last. */
  readonly tensors: readonly T[];
  /** Fields of the immediates. */
  readonly dims: readonly D[];
  /** Names of the module constants that may be rewritten, with the values in force when a caller gives none. */
  readonly tile?: Tile;
  /**
   * Workgroups to launch. A file with `const FOLDED = false;` takes any grid: past the device's limit on an axis, `run`
   * launches the same workgroups in a folded row, with FOLDED true, and the kernel finds its place from the row.
   */
  grid(dims: Dims<D>, tile: (name: string) => number): Grid;
  /** Floating-point operations of a launch. */
  flops(dims: Dims<D>): number;
  /** Bytes that have to cross memory at least once. */
  bytes(dims: Dims<D>): number;
  readonly needs?: Needs;
}

export interface Kernel<T extends string = string, D extends string = string> extends KernelSpec<
  T,
  D
> {
  readonly name: string;
  /**
   * Launches it (or records the launch, while capturing); an empty grid launches nothing. Throws if the device lacks
   * what the kernel needs, and for a grid past the device's limit if the file cannot fold it.
   */
  run(gpu: Gpu, args: { tensors: Readonly<Record<T, Storage>>; dims: Dims<D>; tile?: Tile }): void;
  /** The shader with a tile's constants put in; what will be compiled. */
  specialise(tile?: Tile): PipelineSpec;
}

const sources = new Map<string, string>();

/** The text of a file in `kernels/`. */
export function sourceOf(file: string): string {
  const hit = sources.get(file);
  if (hit !== undefined) return hit;
  const text = readText(file);
  sources.set(file, text);
  return text;
}

export function kernel<const T extends string, const D extends string>(
  spec: KernelSpec<T, D>,
): Kernel<T, D> {
  const entry = spec.entry ?? 'main';
  const name = `${spec.file.replace(/\.wgsl$/, '')}${entry === 'main' ? '' : `:${entry}`}`;
  const variants = new Map<string, PipelineSpec>();

  function specialise(tile: Tile = {}): PipelineSpec {
    const constants = { ...spec.tile, ...tile };
    const key = Object.entries(constants)
      .map(([k, v]) => `${k}=${v}`)
      .join();
    const hit = variants.get(key);
    if (hit !== undefined) return hit;
    const made = specialiseKernel(spec, { entry, name, constants, key });
    variants.set(key, made);
    return made;
  }

  function run(
    gpu: Gpu,
    args: { tensors: Readonly<Record<T, Storage>>; dims: Dims<D>; tile?: Tile },
  ): void {
    const { tensors, dims, tile } = args;
    const lacking = missing(gpu, spec);
    if (lacking.length > 0) throw new Error(`${name} needs ${lacking.join(' and ')}`);
    const natural = spec.grid(dims, (constant) => tileValue(spec, constant, tile));
    const most = gpu.limits['maxComputeWorkgroupsPerDimension'] ?? 65535;
    const folded = natural.some((g) => g > most);
    if (folded && !canFold(spec.file)) {
      throw new Error(`${name}: grid ${natural.join('×')} passes the limit of ${most} workgroups`);
    }
    if (natural.some((g) => g === 0)) return;
    const shader = specialise(folded ? { ...tile, FOLDED: 'true' } : tile);
    const grid = folded ? foldGrid(natural, most) : natural;
    gpu.launch({
      spec: shader,
      storages: spec.tensors.map((t) => tensors[t]),
      immediates: packImmediates(shader, dims),
      grid,
      flops: spec.flops(dims),
      traffic: spec.bytes(dims),
      dims,
      where: gpu.where,
    });
  }

  return { ...spec, name, run, specialise };
}

function specialiseKernel<T extends string, D extends string>(
  spec: KernelSpec<T, D>,
  made: { entry: string; name: string; constants: Tile; key: string },
): PipelineSpec {
  const { entry, name, constants, key } = made;
  let code = sourceOf(spec.file);
  if (!entriesOf(code).includes(entry)) throw new Error(`${spec.file} has no entry ${entry}`);
  for (const [constant, value] of Object.entries(constants)) {
    code = rewriteConst(code, constant, value);
  }
  const bindings = bindingsOf(code);
  const access = spec.tensors.map((tensor, i) => {
    const binding = bindings.find((b) => b.name === tensor);
    if (binding === undefined) throw new Error(`${spec.file} binds no tensor named ${tensor}`);
    if (binding.binding !== i) {
      throw new Error(`${spec.file}: ${tensor} is binding ${binding.binding}, listed as ${i}`);
    }
    return binding.access;
  });
  const immediates = immediatesOf(code);
  const listed = [...spec.dims].sort().join();
  const found = immediates.map((f) => f.name).sort();
  if (found.join() !== listed) {
    throw new Error(`${spec.file}: immediates are ${found.join()}, the record lists ${listed}`);
  }
  const { tensors } = spec;
  return { key: `${name}[${key}]`, name, code, entry, constants, tensors, access, immediates };
}

function packImmediates(shader: PipelineSpec, dims: Dims): Uint32Array {
  const words = new Uint32Array(shader.immediates.length);
  const floats = new Float32Array(words.buffer);
  shader.immediates.forEach(({ name, type }, i) => {
    const value = dims[name];
    if (value === undefined || Number.isNaN(value)) {
      throw new Error(`${shader.name}: dim ${name} is ${value}`);
    }
    if (type === 'f32') floats[i] = value;
    else words[i] = value;
  });
  return words;
}

function tileValue(spec: { file: string; tile?: Tile }, constant: string, tile?: Tile): number {
  const value = tile?.[constant] ?? spec.tile?.[constant];
  return typeof value === 'number' ? value : constOf(sourceOf(spec.file), constant);
}

/**
 * Workgroups for `n` things in a row, `each` to a workgroup, split over x and y past 65,535. A kernel recovers the
 * index as `(group.y * groups.x + group.x) * each + local` and masks the tail.
 */
export function linearGrid(n: number, each: number): Grid {
  const groups = ceilDiv(n, each);
  if (groups <= 65535) return [groups, 1, 1];
  const y = ceilDiv(groups, 32768);
  return [ceilDiv(groups, y), y, 1];
}

const canFold = (file: string) => /^const FOLDED = false;$/m.test(sourceOf(file));

/**
 * The workgroups of a grid as one row, cut over x, y and z so that no axis passes `most`. A kernel recovers the index as
 * `(group.z * groups.y + group.y) * groups.x + group.x`; fewer than y · z of them lie past the last one.
 */
export function foldGrid(grid: Grid, most: number): Grid {
  const groups = grid[0] * grid[1] * grid[2];
  const z = ceilDiv(groups, most * most);
  const y = ceilDiv(groups, z * most);
  return [ceilDiv(groups, y * z), y, z];
}

/** Lanes of a subgroup, where every subgroup of the device has the same number of them. */
export function subgroupSize({ adapter }: Gpu): number | undefined {
  const [least, most] = adapter.subgroupSizes;
  return least === most ? least : undefined;
}

/** Lanes of a subgroup for kernels that write their lanes out, which are made for these three numbers. */
export function broadcastLanes(gpu: Gpu): 4 | 8 | 16 | undefined {
  const size = subgroupSize(gpu);
  return size === 4 || size === 8 || size === 16 ? size : undefined;
}

/** True if the device has what the kernel needs. */
export function canRun(gpu: Gpu, { needs }: { needs?: Needs }): boolean {
  return missing(gpu, { needs }).length === 0;
}

/** What the device lacks of a kernel's needs, in words. */
function missing(gpu: Gpu, { needs }: { needs?: Needs | undefined }): string[] {
  if (needs === undefined) return [];
  const lacking = (needs.features ?? [])
    .filter((feature) => !gpu.features.has(feature))
    .map((feature) => `the feature ${feature}`);
  const demand = (wanted: number | undefined, limit: string, what: string) => {
    const most = gpu.limits[limit] ?? 0;
    if (wanted !== undefined && wanted > most) {
      lacking.push(`${wanted} ${what} (this device allows ${most})`);
    }
  };
  demand(needs.workgroupBytes, 'maxComputeWorkgroupStorageSize', 'bytes of workgroup memory');
  demand(needs.invocations, 'maxComputeInvocationsPerWorkgroup', 'threads a workgroup');
  demand(needs.storageBuffers, 'maxStorageBuffersPerShaderStage', 'storage buffers');
  return lacking;
}
