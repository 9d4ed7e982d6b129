import type { Dataset } from './dataset.ts';

export interface MemoryDatasetOptions {
  readonly name: string;
  readonly description: string;
  readonly channels: 1 | 3;
  readonly imageSize: number;
  readonly fingerprint: string;
  readonly classes: readonly string[];
  /** [n, channels, imageSize, imageSize] */
  readonly images: Uint8Array;
  /** [n], indices into `classes` */
  readonly labels: Uint32Array;
}

/** A data set whose decoded images are all in memory. */
export function memoryDataset(options: MemoryDatasetOptions): Dataset {
  const { images, labels, channels, imageSize } = options;
  const size = labels.length;
  const imageBytes = channels * imageSize * imageSize;
  if (images.length !== size * imageBytes) {
    throw new RangeError(
      `${options.name}: ${size} images of ${imageBytes} bytes do not make ${images.length} bytes`,
    );
  }
  return {
    name: options.name,
    description: options.description,
    size,
    channels,
    frames: 1,
    imageSize,
    fingerprint: options.fingerprint,
    classes: options.classes,
    skipped: [],
    read: (indices, out) =>
      new Promise((resolve) => {
        checkRead(indices, out, { size, imageBytes });
        let at = 0;
        for (const index of indices) {
          out.set(images.subarray(index * imageBytes, (index + 1) * imageBytes), at);
          at += imageBytes;
        }
        resolve();
      }),
    label: (index) => labels[index] ?? 0,
  };
}

/** Our own mistakes in a call of `read`: an index outside the set, an output of another size. */
export function checkRead(
  indices: ArrayLike<number>,
  out: Uint8Array,
  set: { readonly size: number; readonly imageBytes: number },
): void {
  if (out.length !== indices.length * set.imageBytes) {
    throw new RangeError(
      `read: ${indices.length} images of ${set.imageBytes} bytes do not fit an output of ${out.length}`,
    );
  }
  for (let i = 0; i < indices.length; i++) {
    const index = indices[i] ?? -1;
    if (!(index >= 0 && index < set.size)) {
      throw new RangeError(`read: index ${index} of a data set of ${set.size}`);
    }
  }
}
