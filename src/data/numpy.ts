import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { UserError, messageOf } from '../util/errors.ts';
import type { RawImages } from './arrays.ts';
import { ByteFile } from './byte-file.ts';
import { fingerprintOf } from './fingerprint.ts';
import { NPY_HEAD_BYTES, type NpyHead, npyLength, parseNpyHead, parseNpyIntegers } from './npy.ts';
import { type ZipEntry, dataAt, openZip, readMember } from './zip.ts';

/** What a compressed array may unpack to, which is held in memory. */
const LARGEST_ARRAY = 2 ** 31;
/** A file up to this size is hashed whole; of a larger one, so many blocks spread evenly. */
const HASHED_WHOLE = 2 ** 28;
const HASHED_BLOCKS = 4096;
const BLOCK_BYTES = 2 ** 16;
const MOST_CLASSES = 2 ** 16;

/** The names that arrays go by, those of the training images first. */
const IMAGE_NAMES = ['train_images', 'x_train', 'images', 'x', 'X', 'data', 'arr_0'];
const LABEL_NAMES = ['train_labels', 'y_train', 'labels', 'y', 'Y', 'targets', 'arr_1'];

/** A piece of bytes that an array lies in: of a file, or of memory. */
interface Bytes {
  readonly size: number;
  read(at: number, length: number): Uint8Array | Promise<Uint8Array>;
}

/** Images in a `.npy`, uint8 of (N, H, W), (N, H, W, C) or (N, C, H, W), read by position. They are of one class. */
export async function openNpy(path: string): Promise<RawImages> {
  const file = ByteFile.open(path);
  try {
    const array = await imagesIn(file, path);
    const name = basename(path).replace(/\.npy$/i, '');
    const fingerprint = fingerprintOf([array.shape.join(), await hashOf(file)]);
    const labels = new Uint8Array(array.n);
    const close = () => file.close();
    return { ...array, name, where: path, labels, classes: [name], fingerprint, close };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * Images and labels in a `.npz`: the arrays by their usual names (`images` and `labels`, `x_train` and `y_train`,
 * `arr_0` and `arr_1` and a few more), or the only ones that can be meant. What `numpy.savez` wrote is read in place; of
 * `savez_compressed` the images are unpacked into memory. Throws a `UserError` for anything else.
 */
export async function openNpz(path: string): Promise<RawImages> {
  const { file, entries } = await openZip(path);
  const arrays = new Map(
    entries
      .filter(({ path: inside }) => inside.endsWith('.npy'))
      .map((entry) => [entry.path.slice(0, -4), entry]),
  );
  const said = (inside: string) => `${inside} in ${path}`;
  try {
    const heads = new Map<string, NpyHead>();
    for (const [name, entry] of arrays) heads.set(name, await headOf(file, entry, said(name)));
    const images = chooseImages(heads, path);
    const entry = arrays.get(images);
    if (entry === undefined) throw new Error(`${images} was there before`);
    const array = await imagesIn(await bytesOf(file, entry, said(images)), said(images));
    const labelName = chooseLabels(heads, { n: array.n, images });
    const labelEntry = labelName === undefined ? undefined : arrays.get(labelName);
    const name = basename(path).replace(/\.npz$/i, '');
    const { labels, classes } =
      labelName === undefined || labelEntry === undefined
        ? { labels: new Uint8Array(array.n), classes: [name] }
        : await labelsIn(file, labelEntry, { name: said(labelName), n: array.n });
    return {
      ...{ ...array, name, where: path, labels, classes },
      fingerprint: fingerprintOf([array.shape.join(), String(entry.crc), String(labelEntry?.crc)]),
      close: () => file.close(),
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Layout and bytes of an array of images. */
async function imagesIn(bytes: Bytes, name: string) {
  const head = parseNpyHead(await bytes.read(0, Math.min(bytes.size, NPY_HEAD_BYTES)), name);
  if (head.descr !== '|u1') {
    throw new UserError(
      `${name} holds ${head.descr}, and images are uint8 of 0 to 255; convert it, as by (255 * x).astype('uint8')`,
    );
  }
  const layout = layoutOf(head.shape);
  if (layout === undefined || npyLength(head) === 0) {
    throw new UserError(
      `${name} has shape (${head.shape.join(', ')}); images are (N, H, W), (N, H, W, C) or (N, C, H, W) of 1, 3 or 4 channels`,
    );
  }
  const each = layout.channels * layout.height * layout.width;
  const wanted = layout.n * each;
  if (bytes.size - head.at !== wanted) {
    throw new UserError(
      `${name} is cut short or damaged: its shape (${head.shape.join(', ')}) is ${wanted} bytes, and ${bytes.size - head.at} follow its head`,
    );
  }
  const image = (i: number) => bytes.read(head.at + i * each, each);
  return { ...layout, shape: head.shape, image };
}

function layoutOf(shape: readonly number[]) {
  const isChannels = (size: number | undefined): size is 1 | 3 | 4 =>
    size === 1 || size === 3 || size === 4;
  const [n = 0, a = 0, b = 0, c] = shape;
  if (shape.length === 3) return { n, height: a, width: b, channels: 1 as const, planar: true };
  if (shape.length !== 4) return undefined;
  if (isChannels(c)) return { n, height: a, width: b, channels: c, planar: false };
  return isChannels(a) ? { n, height: b, width: c ?? 0, channels: a, planar: true } : undefined;
}

function chooseImages(heads: ReadonlyMap<string, NpyHead>, path: string): string {
  const fit = [...heads].filter(([, { shape }]) => layoutOf(shape) !== undefined);
  const names = fit.map(([name]) => name);
  const known = IMAGE_NAMES.find((name) => names.includes(name));
  const chosen = known ?? (names.length === 1 ? names[0] : undefined);
  if (chosen !== undefined) return chosen;
  const list = [...heads].slice(0, 8).map(([name, { shape }]) => `${name} (${shape.join(', ')})`);
  const have = list.length === 0 ? 'no arrays' : list.join(', ');
  throw new UserError(
    `${path} does not say which array is the images: it has ${have}; save them as images=… and labels=…`,
  );
}

/** One number for each image: by its name, or the only such array. */
function chooseLabels(
  heads: ReadonlyMap<string, NpyHead>,
  { n, images }: { readonly n: number; readonly images: string },
): string | undefined {
  const names = [...heads]
    .filter(([name, head]) => name !== images && head.shape[0] === n && npyLength(head) === n)
    .map(([name]) => name);
  return (
    LABEL_NAMES.find((name) => names.includes(name)) ?? (names.length === 1 ? names[0] : undefined)
  );
}

async function labelsIn(
  file: ByteFile,
  entry: ZipEntry,
  { name, n }: { readonly name: string; readonly n: number },
) {
  const labels = parseNpyIntegers(await unpacked(file, entry, name), name);
  const bad = labels.findIndex((label) => !(label >= 0 && label < MOST_CLASSES));
  if (labels.length !== n || bad >= 0) {
    throw new UserError(
      `${name}: label ${bad} is ${labels[bad]}; labels are whole numbers from 0 to ${MOST_CLASSES - 1}`,
    );
  }
  const top = labels.reduce((most, label) => Math.max(most, label), 0);
  return { labels, classes: Array.from({ length: top + 1 }, (_, i) => String(i)) };
}

async function headOf(file: ByteFile, entry: ZipEntry, name: string): Promise<NpyHead> {
  const bytes = await bytesOf(file, entry, name);
  return parseNpyHead(await bytes.read(0, Math.min(bytes.size, NPY_HEAD_BYTES)), name);
}

/** The bytes of a member: in the file where they are stored as they are, else in memory. */
async function bytesOf(file: ByteFile, entry: ZipEntry, name: string): Promise<Bytes> {
  if (entry.method === 0 && !entry.encrypted && entry.size === entry.packed) {
    const begin = await dataAt(file, entry).catch((error: unknown) => {
      throw new UserError(`${name} cannot be read: ${messageOf(error)}`, { cause: error });
    });
    if (begin + entry.size > file.size) throw new UserError(`${name} is cut short`);
    return { size: entry.size, read: (at, length) => file.read(begin + at, length) };
  }
  const whole = await unpacked(file, entry, name);
  return { size: whole.length, read: (at, length) => whole.subarray(at, at + length) };
}

async function unpacked(file: ByteFile, entry: ZipEntry, name: string): Promise<Uint8Array> {
  try {
    return await readMember(file, entry, LARGEST_ARRAY);
  } catch (error) {
    const remedy = entry.size > LARGEST_ARRAY ? '; save it by numpy.savez, uncompressed' : '';
    throw new UserError(`${name} cannot be read: ${messageOf(error)}${remedy}`, { cause: error });
  }
}

async function hashOf(file: ByteFile): Promise<string> {
  const hash = createHash('sha256');
  const blocks = Math.ceil(file.size / BLOCK_BYTES);
  const hashed = file.size <= HASHED_WHOLE ? blocks : HASHED_BLOCKS;
  for (let k = 0; k < hashed; k++) {
    const at = Math.floor((k * blocks) / hashed) * BLOCK_BYTES;
    hash.update(await file.read(at, Math.min(BLOCK_BYTES, file.size - at)));
  }
  return hash.digest('hex');
}
