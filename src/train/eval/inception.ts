import { Tape } from '../../autograd/tape.ts';
import { tensor } from '../../autograd/tensor.ts';
import type { Tensor } from '../../autograd/tensor.ts';
import { sha256 } from '../../data/fingerprint.ts';
import type { Gpu } from '../../gpu/device.ts';
import type { Program } from '../../gpu/program.ts';
import { readSafetensors } from '../../io/safetensors.ts';
import {
  InceptionV3,
  inceptionClasses,
  inceptionFeatures,
  inceptionSide,
} from '../../models/inception.ts';
import { loadState } from '../../nn/state.ts';
import type { HostTensor } from '../../nn/state.ts';
import { imagesToFloat } from '../../ops/images.ts';
import { expand } from '../../ops/layout.ts';
import { matmul } from '../../ops/matmul.ts';
import { resizeBilinear } from '../../ops/resample.ts';
import { softmax } from '../../ops/softmax.ts';
import { UserError } from '../../util/errors.ts';
import { ceilDiv } from '../../util/shape.ts';
import type { Extractor, Features, Images } from './extractor.ts';

/** Images at a time: on a software adapter little is won by many, and much memory taken. */
const batches = { software: 4, gpu: 32 } as const;

/**
 * The Inception net that FID is called by, with the weights of a safetensors file of the keys of `pt_inception-2015-12-05`
 * (`scripts/convert-inception.py` makes one). Images become 299×299 as in mseitzer/pytorch-fid: bilinear, half-pixel centres,
 * no antialias. Probabilities are those of the original Inception Score, whose last layer has no bias. Throws a `UserError`
 * for a file that is none, or of another net.
 */
export async function openInception(gpu: Gpu, path: string): Promise<Extractor> {
  const state = await readWeights(path);
  return inceptionOf(gpu, state, { source: `Inception weights ${path}` });
}

async function readWeights(path: string): Promise<Map<string, HostTensor>> {
  const { tensors } = await readSafetensors(path, { role: 'Inception weights' });
  const state = new Map<string, HostTensor>();
  for (const [name, { dtype, shape, data }] of tensors) {
    if (name.endsWith('num_batches_tracked')) continue;
    if (!(data instanceof Float32Array)) {
      throw new UserError(`Inception weights ${path} hold ${name} in ${dtype}; needed F32`);
    }
    if (!data.every(Number.isFinite)) {
      throw new UserError(`Inception weights ${path} hold NaN or infinity in ${name}`);
    }
    state.set(name, { shape, data });
  }
  return state;
}

/**
 * The same of tensors by their keys. `source` begins the message of the `UserError` for those of another net; `batch` images are
 * worked on at a time.
 */
export function inceptionOf(
  gpu: Gpu,
  state: ReadonlyMap<string, HostTensor>,
  options: { readonly source: string; readonly batch?: number },
): Extractor {
  const tape = new Tape(gpu);
  const net = new InceptionV3(tape);
  loadState(net, state, options.source);
  const { batch = gpu.adapter.kind === 'software' ? batches.software : batches.gpu } = options;
  /** By channels and size of the images. */
  const looks = new Map<string, Look>();
  const lookAt = async ({ channels, size }: Images): Promise<Look> => {
    const key = `${channels} ${size}`;
    const look = looks.get(key) ?? (await buildLook(net, { batch, channels, size }));
    looks.set(key, look);
    return look;
  };
  return {
    name: 'inception-2015-12-05',
    isInception: true,
    weightsHash: hashOf(state),
    resize: `bilinear ${inceptionSide}×${inceptionSide}, half-pixel centres, no antialias`,
    featureSize: inceptionFeatures,
    classCount: inceptionClasses,
    batch,
    async features(images) {
      return run(await lookAt(images), images, batch);
    },
    close() {
      for (const { program, input } of looks.values()) {
        program.destroy();
        gpu.release(input.storage);
      }
      looks.clear();
      for (const t of net.stateDict().values()) gpu.release(t.storage);
    },
  };
}

/** SHA-256 of the tensors in the order of their names: the same in whatever file they lie. */
function hashOf(state: ReadonlyMap<string, HostTensor>): string {
  const parts = [...state]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { data }]) => {
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      return `${name} ${sha256(bytes)}`;
    });
  return sha256(Buffer.from(parts.join('\n')));
}

/** The net, captured for images of one size. */
interface Look {
  readonly program: Program;
  /** Bytes of a batch, four to a word. */
  readonly input: Tensor;
  readonly features: Tensor;
  readonly probabilities: Tensor;
}

async function buildLook(
  net: InceptionV3,
  { batch, channels, size }: { batch: number; channels: 1 | 3; size: number },
): Promise<Look> {
  const { tape } = net;
  const words = ceilDiv(batch * channels * size ** 2, 4);
  const input = tensor(tape, new Uint32Array(words), [words], { label: 'images for Inception' });
  const seen: { features: Tensor; probabilities: Tensor } = {
    features: input,
    probabilities: input,
  };
  const capture = tape.gpu.capture(() =>
    tape.noGrad(() => {
      const images = imagesToFloat(input, [batch, channels, size, size]);
      const whole = resizeBilinear(images, [inceptionSide, inceptionSide]);
      const colour = expand(whole, [batch, 3, inceptionSide, inceptionSide]);
      seen.features = net.forward(colour).features;
      seen.probabilities = softmax(matmul(seen.features, net.classWeights, { transB: true }));
      return [seen.features.storage, seen.probabilities.storage];
    }),
  );
  return { program: await capture.build(), input, ...seen };
}

/** Features of any number of images, a batch at a time; the last batch is filled with black. */
async function run(look: Look, images: Images, batch: number): Promise<Features> {
  const { n, channels, size, bytes } = images;
  const { gpu } = look.input.tape;
  const each = channels * size ** 2;
  const features = new Float32Array(n * inceptionFeatures);
  const probabilities = new Float32Array(n * inceptionClasses);
  for (let first = 0; first < n; first += batch) {
    const part = new Uint8Array(4 * look.input.size);
    part.set(bytes.subarray(first * each, Math.min(n, first + batch) * each));
    gpu.write(look.input.storage, part);
    look.program.run();
    const count = Math.min(batch, n - first);
    const seen = await look.features.read();
    features.set(seen.subarray(0, count * inceptionFeatures), first * inceptionFeatures);
    const odds = await look.probabilities.read();
    probabilities.set(odds.subarray(0, count * inceptionClasses), first * inceptionClasses);
  }
  return { features, probabilities };
}
