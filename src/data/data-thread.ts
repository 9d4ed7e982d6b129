import { parentPort } from 'node:worker_threads';
import { UserError, messageOf } from '../util/errors.ts';
import { type Dataset, openDataset } from './dataset.ts';
import type { Answer, Calls, Opened, Read, Request } from './threaded.ts';

/** The thread of `openThreaded`: one data set, which answers what it is asked. */

if (parentPort === null) throw new Error('this module is a thread, and is not imported');
const port = parentPort;
let dataset: Dataset | undefined;
/** Skipped files that the other side has been told of. */
let told = 0;

const send = (answer: Answer, move: ArrayBuffer[] = []) => {
  port.postMessage(answer, move);
};

const calls: {
  readonly [C in keyof Calls]: (...args: Parameters<Calls[C]>) => Promise<ReturnType<Calls[C]>>;
} = {
  async open(source, options) {
    dataset = await openDataset(source, {
      ...options,
      onProgress: (progress) => {
        send({ kind: 'progress', progress });
      },
      log: (line) => {
        send({ kind: 'log', line });
      },
    });
    return opened(dataset);
  },
  read: async (indices) => read(open(), indices),
  saveIndex: async (run) => open().saveIndex?.(run),
  close: async () => open().close?.(),
};

port.on('message', ({ id, call, args }: Request) => {
  const work = calls[call] as (...args: readonly unknown[]) => Promise<unknown>;
  work(...args).then(
    (value) => {
      const { images, labels } = (value ?? {}) as Partial<Read & Opened>;
      const arrays = [images, labels].filter((array) => array !== undefined);
      send(
        { kind: 'done', id, value },
        arrays.map(({ buffer }) => buffer as ArrayBuffer),
      );
    },
    (error: unknown) => {
      send({ kind: 'failed', id, message: messageOf(error), ofUser: error instanceof UserError });
    },
  );
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
