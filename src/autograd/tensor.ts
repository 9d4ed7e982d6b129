import type { Gpu, HostArray } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { sameShape, showShape, sizeOf } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import type { TapeNode } from './op.ts';
import type { Tape } from './tape.ts';

export type DType = 'f32' | 'u32';

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

  /** The same values, cut off from what computed them. */
  detach(): Tensor {
    return new Tensor(this.tape, { shape: this.shape, storage: this.storage, dtype: this.dtype });
  }

  /** Overwrites the values in place; meant for parameters and inputs, never for a result with a history. */
  set(data: HostArray): void {
    if (data.length !== this.size) {
      throw new Error(
        `${this.label}: ${data.length} values do not fill ${showShape(this.shape)} (${this.size})`,
      );
    }
    this.gpu.write(this.storage, data);
  }

  /** The values, after everything launched so far. */
  async read(): Promise<Float32Array> {
    if (this.dtype !== 'f32') throw new Error(`${this.label} is ${this.dtype}: use readU32()`);
    return new Float32Array(await this.gpu.read(this.storage));
  }

  async readU32(): Promise<Uint32Array> {
    return new Uint32Array(await this.gpu.read(this.storage));
  }

  /** The value of a tensor with one element. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new Error(`item(): ${showShape(this.shape)} has ${this.size} values`);
    const values = this.dtype === 'f32' ? await this.read() : await this.readU32();
    return values[0] ?? NaN;
  }
}

const bytesPerElement = 4;

/** A tensor whose contents are not defined until something writes them. */
export function empty(
  tape: Tape,
  shape: Shape,
  options: { dtype?: DType; label?: string; requiresGrad?: boolean } = {},
): Tensor {
  const storage = tape.gpu.alloc(sizeOf(shape) * bytesPerElement, options.label ?? 'tensor');
  return new Tensor(tape, { shape, storage, ...options });
}

/** A tensor of host data. It outlives scopes and captures: host data is a constant, an input or a parameter. */
export function tensor(
  tape: Tape,
  data: Float32Array | Uint32Array | readonly number[],
  shape: Shape,
  options: { label?: string; requiresGrad?: boolean } = {},
): Tensor {
  const values =
    data instanceof Float32Array || data instanceof Uint32Array ? data : Float32Array.from(data);
  const dtype = values instanceof Uint32Array ? 'u32' : 'f32';
  const made = tape.gpu.persistent(() => empty(tape, shape, { dtype, ...options }));
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
