import { readFile, readdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { UserError, messageOf } from '../util/errors.ts';
import { errorCode, fileError } from '../io/errno.ts';
import { type ArrayOptions, type RawImages, openArrays } from './arrays.ts';
import type { Dataset } from './dataset.ts';
import { fingerprintOf, sha256 } from './fingerprint.ts';

const IMAGES = /images[-.]idx3-ubyte(\.gz)?$/;
const IMAGE_MAGIC = 0x00000803;
const LABEL_MAGIC = 0x00000801;
const FASHION_ROOT = '/usr/share/datasets/fashion-mnist';
const GUNZIP_LIMIT = 2 ** 31;
/** The order of the labels in github.com/zalandoresearch/fashion-mnist. */
const FASHION_CLASSES = [
  'T-shirt/top',
  'Trouser',
  'Pullover',
  'Dress',
  'Coat',
  'Sandal',
  'Shirt',
  'Sneaker',
  'Bag',
  'Ankle boot',
];

export type IdxOptions = ArrayOptions;

export interface IdxImages {
  readonly n: number;
  readonly height: number;
  readonly width: number;
  /** [n, height, width] */
  readonly pixels: Uint8Array;
}

/** Whether a file's name is that of IDX images: `train-images-idx3-ubyte`, with or without `.gz`. */
export function isIdxImageFile(name: string): boolean {
  return IMAGES.test(name);
}

/** Fashion-MNIST (Zalando, MIT) out of Debian's package; `root` for tests. */
export async function openFashionMnist(
  options: IdxOptions & { readonly root?: string },
): Promise<Dataset> {
  const root = options.root ?? FASHION_ROOT;
  const names = await readdir(root).catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return [];
    throw fileError(error, 'read', root);
  });
  if (!names.some(isIdxImageFile)) {
    throw new UserError(
      `fashion-mnist is not installed: ${root} has no IDX files; run apt-get install dataset-fashion-mnist, or ` +
        'give --data a folder with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz',
    );
  }
  return openIdxFolder(root, { ...options, name: 'fashion-mnist', classNames: FASHION_CLASSES });
}

/**
 * A folder of IDX files (MNIST's format): the training images, or the only ones. Labels lie in the file of the same name
 * with `labels-idx1`; without it there is one class.
 */
export async function openIdxFolder(
  folder: string,
  options: IdxOptions & { readonly name?: string; readonly classNames?: readonly string[] },
): Promise<Dataset> {
  const name = options.name ?? basename(resolve(folder));
  const files = (await readdir(folder)).sort();
  const imageFile = chooseImages(files.filter(isIdxImageFile), folder);
  const images = parseIdxImages(await readMaybeGzip(join(folder, imageFile)), {
    name: join(folder, imageFile),
  });
  const labelBase = imageFile.replace(/images([-.])idx3-ubyte(\.gz)?$/, 'labels$1idx1-ubyte');
  const labelFile = files.find((file) => file === labelBase || file === `${labelBase}.gz`);
  let labels: Uint8Array = new Uint8Array(images.n);
  if (labelFile === undefined) {
    options.log?.(`${folder} has no ${labelBase}[.gz]: all images are one class`);
  } else {
    labels = parseIdxLabels(await readMaybeGzip(join(folder, labelFile)), {
      name: join(folder, labelFile),
    });
    if (labels.length !== images.n) {
      throw new UserError(
        `${join(folder, labelFile)} counts ${labels.length} labels, but ${imageFile} counts ${images.n} images; ` +
          'they belong to different sets',
      );
    }
  }
  const top = labels.reduce((most, label) => Math.max(most, label), 0);
  const numbered = Array.from({ length: top + 1 }, (_, i) => options.classNames?.[i] ?? String(i));
  const classes = labelFile === undefined ? [name] : numbered;
  const { n, width, height, pixels } = images;
  const bytes = height * width;
  const raw: RawImages = {
    ...{ name, where: folder, n, height, width, channels: 1, planar: true, labels, classes },
    fingerprint: fingerprintOf([`${width}×${height}`, sha256(pixels)]),
    image: (i) => pixels.subarray(i * bytes, (i + 1) * bytes),
    close: () => Promise.resolve(),
  };
  return openArrays(raw, options);
}

/** Images of an IDX file, checked. `name` begins every message. */
export function parseIdxImages(bytes: Uint8Array, options: { readonly name: string }): IdxImages {
  const [n = 0, height = 0, width = 0] = readHeader(bytes, options.name, IMAGE_MAGIC);
  if (n * height * width === 0) {
    throw new UserError(
      `${options.name} holds no pixels: it counts ${n} images of ${height}×${width}`,
    );
  }
  const pixels = bytes.subarray(16);
  if (pixels.length !== n * height * width) {
    const held = Math.floor(pixels.length / (height * width));
    throw new UserError(
      `${options.name} is ${pixels.length < n * height * width ? 'cut short' : 'too long'}: its header counts ${n} ` +
        `images of ${height}×${width}, but the file holds ${held} (${pixels.length} bytes after the header, ` +
        `not ${n * height * width})`,
    );
  }
  return { n, height, width, pixels };
}

/** Labels of an IDX file, checked. `name` begins every message. */
export function parseIdxLabels(bytes: Uint8Array, options: { readonly name: string }): Uint8Array {
  const [n = 0] = readHeader(bytes, options.name, LABEL_MAGIC);
  const labels = bytes.subarray(8);
  if (labels.length !== n) {
    throw new UserError(
      `${options.name} is ${labels.length < n ? 'cut short' : 'too long'}: its header counts ${n} labels, but the ` +
        `file holds ${labels.length}`,
    );
  }
  return labels;
}

/** The dimensions after the magic number 0x000008dd, where 08 means unsigned bytes and dd how many dimensions follow. */
function readHeader(bytes: Uint8Array, name: string, magic: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const rank = magic & 0xff;
  const found = bytes.length < 4 ? undefined : view.getUint32(0);
  if (found !== undefined && found !== magic) {
    throw new UserError(
      `${name} has the wrong magic number: found ${hex(found)} (${kindOf(found)}), ` +
        `expected ${hex(magic)} (${kindOf(magic)})`,
    );
  }
  if (bytes.length < 4 + 4 * rank) {
    throw new UserError(
      `${name} is cut short: an IDX header of ${kindOf(magic)} has ${4 + 4 * rank} bytes, but the file has ${bytes.length}`,
    );
  }
  return Array.from({ length: rank }, (_, i) => view.getUint32(4 + 4 * i));
}

function hex(magic: number): string {
  return `0x${magic.toString(16).padStart(8, '0')}`;
}

function kindOf(magic: number): string {
  if (magic === IMAGE_MAGIC) return 'images: bytes in 3 dimensions';
  return magic === LABEL_MAGIC ? 'labels: bytes in 1 dimension' : 'neither images nor labels';
}

function chooseImages(files: readonly string[], folder: string): string {
  const training = files.filter((file) => file.includes('train'));
  const [file, another] = training.length > 0 ? training : files;
  if (file === undefined) throw new UserError(`${folder} has no images-idx3-ubyte file`);
  // The same file with and without .gz sorts next to itself; the plain one comes first and needs no unpacking.
  if (another !== undefined && another !== `${file}.gz`) {
    throw new UserError(
      `${folder} has several IDX image files (${file}, ${another}); keep one of them in a folder of its own`,
    );
  }
  return file;
}

async function readMaybeGzip(path: string): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw fileError(error, 'read', path);
  }
  if (!path.endsWith('.gz')) return bytes;
  try {
    return await promisify(gunzip)(bytes, { maxOutputLength: GUNZIP_LIMIT });
  } catch (error) {
    throw new UserError(`${path} is not a whole gzip file: ${messageOf(error)}`, { cause: error });
  }
}
