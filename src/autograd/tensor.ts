import type { Gpu, HostArray } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { packHalves, unpackHalves } from '../util/half.ts';
import { sameShape, showShape, sizeOf } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import type { TapeNode } from './op.ts';
import type { Tape } from './tape.ts';

/** f32 and f16 are numbers that an op computes with, u32 are indices and bytes. Sums are f32 in either. */
export type DType = 'f32' | 'f16' | 'u32';
export type FloatType = 'f32' | 'f16';

/**
 * A contiguous array on the GPU. It knows the tape that ops on it are recorded on, and the node that made it if a
 * gradient may be asked for.
 */
export class Tensor {
  readonly tape: Tape;
  readonly shape: Shape;
  readonly dtype: DType;
  readonly storage: Storage;
  /** True for parameters and for everything computed from them while recording is on. */
  readonly requiresGrad: boolean;
  readonly node: TapeNode | undefined;

  constructor(
    tape: Tape,
    parts: {
      shape: Shape;
      storage: Storage;
      dtype?: DType;
      requiresGrad?: boolean;
      node?: TapeNode | undefined;
    },
  ) {
    this.tape = tape;
    this.shape = parts.shape;
    this.storage = parts.storage;
    this.dtype = parts.dtype ?? 'f32';
    this.requiresGrad = parts.requiresGrad ?? false;
    this.node = parts.node;
  }

  get gpu(): Gpu {
    return this.tape.gpu;
  }

  get size(): number {
    return sizeOf(this.shape);
  }

  get label(): string {
    return this.storage.label;
  }

  /** How the elements lie in memory, for a kernel: as halves or as whole words. */
  get stored(): Stored {
    return this.dtype === 'f16' ? 'f16' : 'f32';
  }

  /** The same values, cut off from what computed them. */
  detach(): Tensor {
    return new Tensor(this.tape, { shape: this.shape, storage: this.storage, dtype: this.dtype });
  }

  /** Overwrites the values in place, rounded to f16 if it is that; meant for parameters and inputs, never for a result with a history. */
  set(data: HostArray): void {
    if (data.length !== this.size) {
      throw new Error(
        `${this.label}: ${data.length} values do not fill ${showShape(this.shape)} (${this.size})`,
      );
    }
    this.gpu.write(this.storage, this.dtype === 'f16' ? packHalves(data) : data);
  }

  /** The values of floats, after everything launched so far. */
  async read(): Promise<Float32Array> {
    if (this.dtype === 'u32') throw new Error(`${this.label} is u32: use readU32()`);
    const bytes = await this.gpu.read(this.storage);
    return this.dtype === 'f16' ? unpackHalves(bytes, this.size) : new Float32Array(bytes);
  }

  async readU32(): Promise<Uint32Array> {
    return new Uint32Array(await this.gpu.read(this.storage));
  }

  /** The value of a tensor with one element. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new Error(`item(): ${showShape(this.shape)} has ${this.size} values`);
    const values = this.dtype === 'u32' ? await this.readU32() : await this.read();
    return values[0] ?? NaN;
  }
}

/** Bytes of a tensor of `n` elements. */
export function bytesOf(n: number, dtype: DType): number {
  return dtype === 'f16' ? 2 * n : 4 * n;
}

/** A tensor whose contents are not defined until something writes them. */
export function empty(
  tape: Tape,
  shape: Shape,
  options: { dtype?: DType; label?: string; requiresGrad?: boolean } = {},
): Tensor {
  const bytes = bytesOf(sizeOf(shape), options.dtype ?? 'f32');
  const storage = tape.gpu.alloc(bytes, options.label ?? 'tensor');
  return new Tensor(tape, { shape, storage, ...options });
}

/** A tensor of host data; of f16 if `dtype` says so, then rounded. It outlives scopes and captures: host data is a constant, an input or a parameter. */
export function tensor(
  tape: Tape,
  data: Float32Array | Uint32Array | readonly number[],
  shape: Shape,
  options: { dtype?: FloatType; label?: string; requiresGrad?: boolean } = {},
): Tensor {
  const values =
    data instanceof Float32Array || data instanceof Uint32Array ? data : Float32Array.from(data);
  const dtype = values instanceof Uint32Array ? 'u32' : (options.dtype ?? 'f32');
  const made = tape.gpu.persistent(() => empty(tape, shape, { ...options, dtype }));
  made.set(values);
  return made;
}

/** Throws unless two tensors have the same shape; `roles` names them in the message. */
export function requireSameShape(
  op: string,
  roles: readonly [string, string],
  a: Tensor,
  b: Tensor,
): void {
  if (!sameShape(a.shape, b.shape)) {
    throw new RangeError(
      `${op}: ${roles[0]} is ${showShape(a.shape)} but ${roles[1]} is ${showShape(b.shape)}; the shapes must agree`,
    );
  }
}
