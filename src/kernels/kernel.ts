import type { Gpu } from '../gpu/device.ts';
import type { PipelineSpec } from '../gpu/pipelines.ts';
import { readText } from '../gpu/platform.ts';
import type { Storage } from '../gpu/storage.ts';
import {
  bindingsOf,
  constOf,
  entriesOf,
  immediatesOf,
  rewriteConst,
  rewriteStored,
} from '../gpu/wgsl.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { ceilDiv } from '../util/shape.ts';

export type Dims<D extends string = string> = Readonly<Record<D, number>>;
export type Tile = Readonly<Record<string, number | string>>;
export type Grid = readonly [number, number, number];
/** The value of a module constant, as a tile sets it or else as it stands in the file. */
export type TileOf = (name: string) => number;

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
  grid(dims: Dims<D>, tile: TileOf): Grid;
  /** Floating-point operations of a launch. */
  flops(dims: Dims<D>): number;
  /** Bytes that have to cross memory at least once; an element of a tensor of `Stored` takes `each`, 4 if left out. */
  bytes(dims: Dims<D>, each?: number, tile?: TileOf): number;
  /** Where a kernel's tiles differ in what they take, as a function of the tile. */
  readonly needs?: Needs | ((tile: TileOf) => Needs);
}

/** One launch. */
export interface KernelArgs<T extends string, D extends string> {
  readonly tensors: Readonly<Record<T, Storage>>;
  readonly dims: Dims<D>;
  readonly tile?: Tile;
  /** What the elements of tensors of `Stored` are; f32 if left out, f16 only where the file has that alias. */
  readonly stored?: Stored;
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
  run(gpu: Gpu, args: KernelArgs<T, D>): void;
  /** The shader with a tile's constants and the stored type put in; what will be compiled. */
  specialise(tile?: Tile, stored?: Stored): PipelineSpec;
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

  function specialise(tile: Tile = {}, stored: Stored = 'f32'): PipelineSpec {
    const constants = { ...spec.tile, ...tile };
    const pairs = Object.entries(constants).map(([k, v]) => `${k}=${v}`);
    const key = (stored === 'f32' ? pairs : [...pairs, `Stored=${stored}`]).join();
    const hit = variants.get(key);
    if (hit !== undefined) return hit;
    const made = specialiseKernel(spec, { entry, name, constants, stored, key });
    variants.set(key, made);
    return made;
  }

  function run(gpu: Gpu, { tensors, dims, tile, stored = 'f32' }: KernelArgs<T, D>): void {
    const lacking = missing(gpu, spec, tile);
    if (stored === 'f16' && !gpu.features.has('shader-f16')) {
      lacking.push('the feature shader-f16 for its tensors of f16');
    }
    if (lacking.length > 0) throw new Error(`${name} needs ${lacking.join(' and ')}`);
    const valueOf: TileOf = (constant) => tileValue(spec, constant, tile);
    const natural = spec.grid(dims, valueOf);
    const most = gpu.limits['maxComputeWorkgroupsPerDimension'] ?? 65535;
    const folded = natural.some((g) => g > most);
    if (folded && !canFold(spec.file)) {
      throw new Error(`${name}: grid ${natural.join('×')} passes the limit of ${most} workgroups`);
    }
    if (natural.some((g) => g === 0)) return;
    const shader = specialise(folded ? { ...tile, FOLDED: 'true' } : tile, stored);
    const grid = folded ? foldGrid(natural, most) : natural;
    gpu.launch({
      spec: shader,
      storages: spec.tensors.map((t) => tensors[t]),
      immediates: packImmediates(shader, dims),
      grid,
      flops: spec.flops(dims),
      traffic: spec.bytes(dims, stored === 'f16' ? 2 : 4, valueOf),
      dims,
      where: gpu.where,
    });
  }

  return { ...spec, name, run, specialise };
}

function specialiseKernel<T extends string, D extends string>(
  spec: KernelSpec<T, D>,
  made: { entry: string; name: string; constants: Tile; stored: Stored; key: string },
): PipelineSpec {
  const { entry, name, constants, stored, key } = made;
  let code = rewriteStored(sourceOf(spec.file), stored);
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

/**
 * Lanes of a subgroup for the kernels of CPU drivers that write their lanes out. Four are too few: what they save of the loads
 * hardly shows, and SwiftShader, which has four, takes minutes to compile them.
 */
export function broadcastLanes(gpu: Gpu): 8 | 16 | undefined {
  const size = subgroupSize(gpu);
  return size === 8 || size === 16 ? size : undefined;
}

type Needing = Pick<KernelSpec<string, string>, 'file' | 'needs' | 'tile'>;

/** True if the device has what the kernel needs, in this tile or in the one that the file stands in. */
export function canRun(gpu: Gpu, spec: Needing, tile?: Tile): boolean {
  return missing(gpu, spec, tile).length === 0;
}

/** What the device lacks of a kernel's needs, in words. */
function missing(gpu: Gpu, spec: Needing, tile: Tile | undefined): string[] {
  const needs =
    typeof spec.needs === 'function'
      ? spec.needs((constant) => tileValue(spec, constant, tile))
      : spec.needs;
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
