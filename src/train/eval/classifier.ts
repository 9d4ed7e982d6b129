import { Tape } from '../../autograd/tape.ts';
import { tensor } from '../../autograd/tensor.ts';
import type { Tensor } from '../../autograd/tensor.ts';
import type { Gpu } from '../../gpu/device.ts';
import { Classifier } from '../../models/classifier.ts';
import type { ClassifierOptions } from '../../models/classifier.ts';
import { loadState } from '../../nn/state.ts';
import type { HostTensor } from '../../nn/state.ts';
import { imagesToFloat } from '../../ops/images.ts';
import { softmax } from '../../ops/softmax.ts';
import { HostRng } from '../../util/philox.ts';
import { ceilDiv } from '../../util/shape.ts';
import type { Extractor, Features, Images } from './extractor.ts';

/** A classifier of a data set's own: the measure that needs nothing from outside. */
export interface TrainedClassifier {
  readonly options: ClassifierOptions;
  readonly state: ReadonlyMap<string, HostTensor>;
  /** SHA-256 in hex of the weights. */
  readonly hash: string;
  /** Shares, from 0 to 1, of images that it was not trained on; `class` of a data set that has classes. */
  readonly accuracy: Readonly<Record<string, number>>;
  /** How many those were. */
  readonly heldOut: number;
}

/** Images that it looks at in one run of its program. */
const batch = 64;

/** What a classifier says of images, besides its features. */
interface Said extends Features {
  /** [n, 4] */
  readonly turns: Float32Array;
}

/** A classifier's program in evaluation mode. */
export class ClassifierExtractor implements Extractor {
  readonly name: string;
  readonly isInception = false;
  readonly weightsHash: string;
  readonly resize = 'none';
  readonly featureSize: number;
  readonly classCount: number | undefined;
  readonly batch = batch;
  readonly accuracy: Readonly<Record<string, number>>;
  readonly #look: (images: Images) => Promise<Said>;
  readonly close: () => void;

  private constructor(
    trained: TrainedClassifier,
    parts: { look: (images: Images) => Promise<Said>; close: () => void },
  ) {
    const { classes, width } = trained.options;
    this.name = classifierName(classes);
    this.weightsHash = trained.hash;
    this.featureSize = width;
    this.classCount = classes > 0 ? classes : undefined;
    this.accuracy = trained.accuracy;
    this.#look = parts.look;
    this.close = parts.close;
  }

  static async open(gpu: Gpu, trained: TrainedClassifier): Promise<ClassifierExtractor> {
    const { options, state, hash } = trained;
    const tape = new Tape(gpu);
    const net = new Classifier(tape, options, new HostRng(0));
    loadState(net, state, `classifier ${hash.slice(0, 12)}`);
    net.eval();
    const { channels, imageSize, classes } = options;
    const each = channels * imageSize ** 2;
    const words = ceilDiv(batch * each, 4);
    const input = tensor(tape, new Uint32Array(words), [words], { label: 'images to measure' });
    const out: { features?: Tensor; class?: Tensor | undefined; turn?: Tensor } = {};
    const capture = gpu.capture(() =>
      tape.noGrad(() => {
        const images = imagesToFloat(input, [batch, channels, imageSize, imageSize]);
        out.features = net.forward(images);
        const heads = net.heads(out.features);
        out.turn = softmax(heads.turn);
        out.class = heads.class === undefined ? undefined : softmax(heads.class);
        return [out.features, out.turn, out.class].flatMap((t) => t?.storage ?? []);
      }),
    );
    const program = await capture.build();
    const look = async (images: Images): Promise<Said> => {
      const { n } = images;
      const said = {
        features: new Float32Array(n * options.width),
        probabilities: classes > 0 ? new Float32Array(n * classes) : undefined,
        turns: new Float32Array((n * (out.turn?.size ?? 0)) / batch),
      };
      for (let first = 0; first < n; first += batch) {
        const part = new Uint8Array(batch * each);
        part.set(images.bytes.subarray(first * each, (first + batch) * each));
        gpu.write(input.storage, part);
        program.run();
        const count = Math.min(batch, n - first);
        await take(said.features, out.features, { first, count });
        await take(said.probabilities, out.class, { first, count });
        await take(said.turns, out.turn, { first, count });
      }
      return said;
    };
    const close = () => {
      program.destroy();
      for (const t of [input, ...net.stateDict().values()]) gpu.release(t.storage);
    };
    return new ClassifierExtractor(trained, { look, close });
  }

  /** With the probabilities of the turns besides. Throws a RangeError for images of another size than it was trained on. */
  async features(images: Images): Promise<Said> {
    return this.#look(images);
  }
}

/** Copies a batch's first rows to their place among all. */
async function take(
  to: Float32Array | undefined,
  from: Tensor | undefined,
  { first, count }: { first: number; count: number },
): Promise<void> {
  if (to === undefined || from === undefined) return;
  const each = from.size / batch;
  to.set((await from.read()).subarray(0, count * each), first * each);
}

/** What the measure is called, for classes of this number: 0 where the images are all of one. */
function classifierName(classes: number): string {
  return `classifier-own (${classes > 0 ? `${classes} classes, ` : ''}quarter turns)`;
}
