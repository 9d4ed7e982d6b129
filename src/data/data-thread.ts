import { serveCalls, tell } from '../io/thread.ts';
import { type Dataset, openDataset } from './dataset.ts';
import type { DataCalls, DataEvent, Opened, Read } from './threaded.ts';

/** The thread of `openThreaded`: one data set, which answers what it is asked. */

let dataset: Dataset | undefined;
/** What is being read: nothing may be when the thread ends. */
const reading = new Set<Promise<unknown>>();
/** Skipped files that the other side has been told of. */
let told = 0;

serveCalls<DataCalls>({
  async open(source, options) {
    dataset = await openDataset(source, {
      ...options,
      onProgress: (progress) => {
        tell({ progress } satisfies DataEvent);
      },
      log: (line) => {
        tell({ line } satisfies DataEvent);
      },
    });
    return opened(dataset);
  },
  read(indices) {
    const work = read(open(), indices);
    reading.add(work);
    return work.finally(() => reading.delete(work));
  },
  saveIndex: async (run) => open().saveIndex?.(run),
  async close() {
    await Promise.allSettled(reading);
    await open().close?.();
  },
});

function open(): Dataset {
  if (dataset === undefined) throw new Error('the data set is not open');
  return dataset;
}

function opened(set: Dataset): Opened {
  const { name, description, size, channels, frames, imageSize, fingerprint, resize } = set;
  told = set.skipped.length;
  return {
    ...{ name, description, size, channels, frames, imageSize, fingerprint, resize },
    classes: set.classes,
    skipped: set.skipped,
    labels: Uint32Array.from({ length: size }, (_, i) => set.label(i)),
  };
}

async function read(set: Dataset, indices: Uint32Array): Promise<Read> {
  const { channels, frames, imageSize } = set;
  const images = new Uint8Array(indices.length * channels * frames * imageSize ** 2);
  await set.read(indices, images);
  const skipped = set.skipped.slice(told);
  told += skipped.length;
  return {
    images,
    labels: indices.map((i) => set.label(i)),
    description: set.description,
    skipped,
  };
}
