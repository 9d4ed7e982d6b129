import { UserError } from '../util/errors.ts';

/** What the head of a NumPy array says (numpy.lib.format, versions 1 to 3). */
export interface NpyHead {
  /** NumPy's name of the element type, such as `|u1` or `<i8`. */
  readonly descr: string;
  readonly shape: readonly number[];
  /** Of the first element. */
  readonly at: number;
  /** Bytes of an element. */
  readonly itemBytes: number;
}

const MAGIC = '\x93NUMPY';
/** Enough for the head of any array that is images; longer ones describe records. */
export const NPY_HEAD_BYTES = 2 ** 12;

/**
 * The head of a `.npy`: its first bytes, up to `NPY_HEAD_BYTES`. `name` begins the message of the `UserError` for bytes
 * that are no such array, or one in Fortran's order.
 */
export function parseNpyHead(bytes: Uint8Array, name: string): NpyHead {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const major = buffer[6] ?? 0;
  const long = major > 1;
  if (buffer.length < 12 || buffer.toString('latin1', 0, 6) !== MAGIC || major < 1 || major > 3) {
    throw new UserError(`${name} is no NumPy array: it does not begin with its magic number`);
  }
  const at = (long ? 12 : 10) + (long ? buffer.readUInt32LE(8) : buffer.readUInt16LE(8));
  const text = buffer.toString('latin1', long ? 12 : 10, at);
  const descr = /'descr':\s*'([^']*)'/.exec(text)?.[1];
  const shape = /'shape':\s*\(([\d,\sL]*)\)/.exec(text)?.[1];
  if (at > buffer.length || descr === undefined || shape === undefined) {
    throw new UserError(
      `${name} is no plain NumPy array: its head is damaged, or describes records`,
    );
  }
  if (/'fortran_order':\s*True/.test(text)) {
    throw new UserError(
      `${name} lies in Fortran's order; save it again through numpy.ascontiguousarray`,
    );
  }
  const sizes = shape.split(',').filter((size) => size.trim() !== '');
  return {
    ...{ descr, at, itemBytes: Number(/\d+$/.exec(descr)?.[0] ?? 0) },
    shape: sizes.map((size) => Number(size.replace('L', ''))),
  };
}

/** Elements of an array; NaN or infinity for a shape that no array has. */
export function npyLength({ shape }: NpyHead): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** The numbers of an array of whole numbers. `name` begins the message of the `UserError` for any other. */
export function parseNpyIntegers(bytes: Uint8Array, name: string): number[] {
  const head = parseNpyHead(bytes.subarray(0, NPY_HEAD_BYTES), name);
  const { descr, at, itemBytes } = head;
  const n = npyLength(head);
  const [order = '', kind = ''] = descr;
  const known = ['u', 'i', 'b'].includes(kind) && [1, 2, 4, 8].includes(itemBytes);
  if (!known) {
    throw new UserError(`${name} holds ${descr}; labels are whole numbers, such as uint8 or int64`);
  }
  if (bytes.length - at < n * itemBytes) {
    throw new UserError(
      `${name} is cut short: ${n} numbers are ${n * itemBytes} bytes, and ${bytes.length - at} are there`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, n * itemBytes);
  const little = order !== '>';
  const signed = kind === 'i';
  return Array.from({ length: n }, (_, i) => {
    const offset = i * itemBytes;
    if (itemBytes === 8) return Number(view.getBigInt64(offset, little));
    if (itemBytes === 4)
      return signed ? view.getInt32(offset, little) : view.getUint32(offset, little);
    if (itemBytes === 2)
      return signed ? view.getInt16(offset, little) : view.getUint16(offset, little);
    return signed ? view.getInt8(offset) : view.getUint8(offset);
  });
}
