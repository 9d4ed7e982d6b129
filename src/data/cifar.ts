import { readFile, readdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { fileError } from '../io/errno.ts';
import { UserError } from '../util/errors.ts';
import type { RawImages } from './arrays.ts';
import { fingerprintOf, sha256 } from './fingerprint.ts';

const SIDE = 32;
const PIXELS = 3 * SIDE * SIDE;

interface Kind {
  readonly title: string;
  /** Bytes of labels before the pixels of an image; the last of them is the one that counts. */
  readonly labelBytes: number;
  readonly training: RegExp;
  readonly test: RegExp;
  readonly names: string;
}

/** The binary versions of www.cs.toronto.edu/~kriz/cifar.html. Of CIFAR-100's two labels the fine one is taken. */
const KINDS: readonly Kind[] = [
  {
    title: 'CIFAR-10',
    labelBytes: 1,
    training: /^data_batch_\d+\.bin$/,
    test: /^test_batch\.bin$/,
    names: 'batches.meta.txt',
  },
  {
    title: 'CIFAR-100',
    labelBytes: 2,
    training: /^train\.bin$/,
    test: /^test\.bin$/,
    names: 'fine_label_names.txt',
  },
];

/** Whether a file's name is that of a part of CIFAR in its binary version. */
export function isCifarFile(name: string): boolean {
  return KINDS.some(({ training, test }) => training.test(name) || test.test(name));
}

/**
 * CIFAR-10 or CIFAR-100 in the binary version: the training images, or those of the test where there are no others; the
 * names of the classes out of the text file that comes with it. Throws a `UserError` for files that are cut or damaged.
 */
export async function openCifar(folder: string): Promise<RawImages> {
  const names = (await readdir(folder)).sort();
  const matching = (key: 'training' | 'test') =>
    KINDS.map((kind) => ({ kind, files: names.filter((name) => kind[key].test(name)) })).find(
      ({ files }) => files.length > 0,
    );
  const found = matching('training') ?? matching('test');
  if (found === undefined) throw new UserError(`${folder} has no binary files of CIFAR`);
  const { kind, files } = found;
  const row = kind.labelBytes + PIXELS;
  const parts: Uint8Array[] = [];
  for (const file of files) parts.push(await readPart(join(folder, file), kind));
  // A record may not lie across two files, and the files are one after the other from here on.
  const bytes = Buffer.concat(parts);
  const n = bytes.length / row;
  const labels = Uint8Array.from(
    { length: n },
    (_, i) => bytes[i * row + kind.labelBytes - 1] ?? 0,
  );
  const top = labels.reduce((most, label) => Math.max(most, label), 0);
  const given = names.includes(kind.names) ? await readNames(join(folder, kind.names)) : undefined;
  if (given !== undefined && top >= given.length) {
    const at = labels.indexOf(top);
    throw new UserError(
      `image ${at} of ${folder} has label ${top}, but ${kind.names} names ${given.length} classes; the files are damaged or of another set`,
    );
  }
  return {
    name: basename(resolve(folder)),
    where: folder,
    ...{ n, height: SIDE, width: SIDE, channels: 3, planar: true, labels },
    classes: given ?? Array.from({ length: top + 1 }, (_, i) => String(i)),
    fingerprint: fingerprintOf([kind.title, sha256(bytes)]),
    image: (i) => bytes.subarray(i * row + kind.labelBytes, (i + 1) * row),
    close: () => Promise.resolve(),
  };
}

async function readPart(path: string, { labelBytes, title }: Kind): Promise<Uint8Array> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw fileError(error, 'read', path);
  });
  const row = labelBytes + PIXELS;
  if (bytes.length === 0 || bytes.length % row !== 0) {
    throw new UserError(
      `${path} has ${bytes.length} bytes, which is no whole number of ${title}'s records of ${row}: it is cut short, or no ${title} file`,
    );
  }
  return bytes;
}

async function readNames(path: string): Promise<string[]> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw fileError(error, 'read', path);
  });
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}
