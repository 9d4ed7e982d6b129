import type { Gpu } from '../gpu/device.ts';
import type { PipelineSpec } from '../gpu/pipelines.ts';
import { readText } from '../gpu/platform.ts';
import type { Storage } from '../gpu/storage.ts';
import { bindingsOf, constOf, entriesOf, immediatesOf, rewriteConst } from '../gpu/wgsl.ts';
import { ceilDiv } from '../util/shape.ts';

export type Dims<D extends string = string> = Readonly<Record<D, number>>;
export type Tile = Readonly<Record<string, number | string>>;
export type Grid = readonly [number, number, number];

/** What a kernel needs beyond the portable floor; checked before it is chosen. */
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
  /** Workgroups to launch. */
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
  /** Launches it (or records the launch, while capturing). */
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
    const shader = specialise(tile);
    const grid = spec.grid(dims, (constant) => tileValue(spec, constant, tile));
    const most = gpu.limits['maxComputeWorkgroupsPerDimension'] ?? 65535;
    if (grid.some((g) => g > most)) {
      throw new Error(`${name}: grid ${grid.join('×')} passes the limit of ${most} workgroups`);
    }
    if (grid.some((g) => g === 0)) return;
    gpu.launch({
      spec: shader,
      storages: spec.tensors.map((t) => tensors[t]),
      immediates: packImmediates(shader, dims),
      grid,
      flops: spec.flops(dims),
      traffic: spec.bytes(dims),
      dims,
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
  return { key: `${name}[${key}]`, name, code, entry, access, immediates };
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

/** True if the device has what the kernel needs. */
export function canRun(gpu: Gpu, { needs }: { needs?: Needs }): boolean {
  const limit = (name: string) => gpu.limits[name] ?? 0;
  return (
    (needs?.features ?? []).every((f) => gpu.features.has(f)) &&
    (needs?.workgroupBytes ?? 0) <= limit('maxComputeWorkgroupStorageSize') &&
    (needs?.invocations ?? 0) <= limit('maxComputeInvocationsPerWorkgroup') &&
    (needs?.storageBuffers ?? 0) <= limit('maxStorageBuffersPerShaderStage')
  );
}
