import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { ReLU } from '../nn/activation.ts';
import { Conv2d } from '../nn/conv.ts';
import { zeros } from '../nn/init.ts';
import { Linear } from '../nn/linear.ts';
import { Layer, Module, Sequential } from '../nn/module.ts';
import { BatchNorm2d } from '../nn/norm.ts';
import type { Pair } from '../ops/conv.ts';
import { concat } from '../ops/layout.ts';
import { mean } from '../ops/reduce.ts';
import { avgPool2d, maxPool2d } from '../ops/resample.ts';
import { HostRng } from '../util/philox.ts';

/** Side of the images that the net was trained on. */
export const inceptionSide = 299;
/** Length of the features that distributions are compared in. */
export const inceptionFeatures = 2048;
/** Outputs of the net of 2015-12-05: the thousand classes of ImageNet, and eight that were never used. */
export const inceptionClasses = 1008;

/** A convolution by its key: channels out, kernel, and a stride of 2 without padding where it halves. */
type ConvSpec = readonly [key: string, to: number, kernel: Pair, how?: 'halve' | 'valid'];

/** One way through a block: a pool, convolutions, and at its end perhaps two of them side by side. */
interface BranchSpec {
  readonly pool?: 'mean' | 'max' | 'halve';
  readonly convs?: readonly ConvSpec[];
  readonly fork?: readonly ConvSpec[];
}

type BlockSpec = readonly BranchSpec[];

/** 35×35 (figure 5 of Szegedy et al. 2016, with 5×5 in the place of the second 3×3). */
const blockA = (pool: number): BlockSpec => [
  { convs: [['branch1x1', 64, 1]] },
  {
    convs: [
      ['branch5x5_1', 48, 1],
      ['branch5x5_2', 64, 5],
    ],
  },
  {
    convs: [
      ['branch3x3dbl_1', 64, 1],
      ['branch3x3dbl_2', 96, 3],
      ['branch3x3dbl_3', 96, 3],
    ],
  },
  { pool: 'mean', convs: [['branch_pool', pool, 1]] },
];

/** 35×35 → 17×17. */
const blockB: BlockSpec = [
  { convs: [['branch3x3', 384, 3, 'halve']] },
  {
    convs: [
      ['branch3x3dbl_1', 64, 1],
      ['branch3x3dbl_2', 96, 3],
      ['branch3x3dbl_3', 96, 3, 'halve'],
    ],
  },
  { pool: 'halve' },
];

/** 17×17, 7×7 in factors (figure 6). */
const blockC = (width: number): BlockSpec => [
  { convs: [['branch1x1', 192, 1]] },
  {
    convs: [
      ['branch7x7_1', width, 1],
      ['branch7x7_2', width, [1, 7]],
      ['branch7x7_3', 192, [7, 1]],
    ],
  },
  {
    convs: [
      ['branch7x7dbl_1', width, 1],
      ['branch7x7dbl_2', width, [7, 1]],
      ['branch7x7dbl_3', width, [1, 7]],
      ['branch7x7dbl_4', width, [7, 1]],
      ['branch7x7dbl_5', 192, [1, 7]],
    ],
  },
  { pool: 'mean', convs: [['branch_pool', 192, 1]] },
];

/** 17×17 → 8×8. */
const blockD: BlockSpec = [
  {
    convs: [
      ['branch3x3_1', 192, 1],
      ['branch3x3_2', 320, 3, 'halve'],
    ],
  },
  {
    convs: [
      ['branch7x7x3_1', 192, 1],
      ['branch7x7x3_2', 192, [1, 7]],
      ['branch7x7x3_3', 192, [7, 1]],
      ['branch7x7x3_4', 192, 3, 'halve'],
    ],
  },
  { pool: 'halve' },
];

/** 8×8, wide (figure 7). The net of 2015-12-05 takes the largest of each window in the last one, where others take means. */
const blockE = (pool: 'mean' | 'max'): BlockSpec => [
  { convs: [['branch1x1', 320, 1]] },
  {
    convs: [['branch3x3_1', 384, 1]],
    fork: [
      ['branch3x3_2a', 384, [1, 3]],
      ['branch3x3_2b', 384, [3, 1]],
    ],
  },
  {
    convs: [
      ['branch3x3dbl_1', 448, 1],
      ['branch3x3dbl_2', 384, 3],
    ],
    fork: [
      ['branch3x3dbl_3a', 384, [1, 3]],
      ['branch3x3dbl_3b', 384, [3, 1]],
    ],
  },
  { pool, convs: [['branch_pool', 192, 1]] },
];

const stem: readonly (ConvSpec | 'halve')[] = [
  ['Conv2d_1a_3x3', 32, 3, 'halve'],
  ['Conv2d_2a_3x3', 32, 3, 'valid'],
  ['Conv2d_2b_3x3', 64, 3],
  'halve',
  ['Conv2d_3b_1x1', 80, 1],
  ['Conv2d_4a_3x3', 192, 3, 'valid'],
  'halve',
];

const blocks: readonly (readonly [key: string, spec: BlockSpec])[] = [
  ['Mixed_5b', blockA(32)],
  ['Mixed_5c', blockA(64)],
  ['Mixed_5d', blockA(64)],
  ['Mixed_6a', blockB],
  ['Mixed_6b', blockC(128)],
  ['Mixed_6c', blockC(160)],
  ['Mixed_6d', blockC(160)],
  ['Mixed_6e', blockC(192)],
  ['Mixed_7a', blockD],
  ['Mixed_7b', blockE('mean')],
  ['Mixed_7c', blockE('max')],
];

/** Weights wait for a file's values. */
const blank = { rng: new HostRng(0), init: zeros } as const;

/** Convolution without bias, batch norm of ε 0.001, ReLU; keys conv.weight and bn.… */
class ConvNorm extends Layer {
  readonly #layers: Sequential;

  constructor(tape: Tape, from: number, [, to, kernelSize, how]: ConvSpec) {
    super(tape);
    const stride = how === 'halve' ? 2 : 1;
    const same = (k: number) => (how === undefined ? (k - 1) / 2 : 0);
    const [R, S] = typeof kernelSize === 'number' ? [kernelSize, kernelSize] : kernelSize;
    const shape = { kernelSize, stride, padding: [same(R), same(S)] } as const;
    const conv = this.child(
      'conv',
      new Conv2d(tape, from, to, { ...blank, ...shape, bias: false }),
    );
    const bn = this.child('bn', new BatchNorm2d(tape, to, { eps: 0.001 }));
    this.#layers = new Sequential(tape, [conv, bn, new ReLU(tape)]);
  }

  override forward(x: Tensor): Tensor {
    return this.#layers.forward(x);
  }
}

/** Branches side by side, joined along the channels in their order. */
class Block extends Layer {
  readonly outChannels: number;
  readonly #branches: readonly {
    readonly pool: BranchSpec['pool'];
    readonly convs: readonly ConvNorm[];
    readonly fork: readonly ConvNorm[];
  }[];

  constructor(tape: Tape, from: number, spec: BlockSpec) {
    super(tape);
    let joined = 0;
    this.#branches = spec.map(({ pool, convs = [], fork = [] }) => {
      let width = from;
      const made = convs.map((conv) => {
        const layer = this.child(conv[0], new ConvNorm(tape, width, conv));
        width = conv[1];
        return layer;
      });
      const ends = fork.map((conv) => this.child(conv[0], new ConvNorm(tape, width, conv)));
      joined += fork.length === 0 ? width : fork.reduce((sum, [, to]) => sum + to, 0);
      return { pool, convs: made, fork: ends };
    });
    this.outChannels = joined;
  }

  override forward(x: Tensor): Tensor {
    const parts = this.#branches.flatMap(({ pool, convs, fork }) => {
      const h = convs.reduce((y, conv) => conv.forward(y), pooled(x, pool));
      return fork.length === 0 ? [h] : fork.map((conv) => conv.forward(h));
    });
    return concat(parts, 1);
  }
}

function pooled(x: Tensor, pool: BranchSpec['pool']): Tensor {
  if (pool === undefined) return x;
  if (pool === 'halve') return maxPool2d(x, 3, { stride: 2 });
  const same = { stride: 1, padding: 1 } as const;
  return pool === 'max'
    ? maxPool2d(x, 3, same)
    : avgPool2d(x, 3, { ...same, countIncludePad: false });
}

/**
 * InceptionV3 (Szegedy et al. 2016) as the Fréchet Inception Distance wants it (Heusel et al. 2017): the graph of Google's
 * `inception-2015-12-05`, in evaluation. It differs from torchvision's in 1008 outputs, in means that leave padding out, and in the
 * last block's pool. Keys are those of `pt_inception-2015-12-05` (mseitzer/pytorch-fid), and so of torchvision without its
 * auxiliary output. Every weight is zero until a file's are loaded.
 */
export class InceptionV3 extends Module {
  readonly #stem: readonly (ConvNorm | 'halve')[];
  readonly #blocks: readonly (readonly [string, Block])[];
  readonly #fc: Linear;

  constructor(tape: Tape) {
    super(tape);
    let width = 3;
    this.#stem = stem.map((spec) => {
      if (spec === 'halve') return spec;
      const layer = this.child(spec[0], new ConvNorm(tape, width, spec));
      width = spec[1];
      return layer;
    });
    this.#blocks = blocks.map(([key, spec]) => {
      const block = this.child(key, new Block(tape, width, spec));
      width = block.outChannels;
      return [key, block] as const;
    });
    this.#fc = this.child('fc', new Linear(tape, inceptionFeatures, inceptionClasses, blank));
    this.eval();
  }

  /** The matrix (1008, 2048) of the last layer, without its bias. */
  get classWeights(): Tensor {
    return this.#fc.weightParameter;
  }

  /**
   * x (N, 3, H, W) in [−1, 1], 299×299 as it was trained, from 75 → features (N, 2048) and logits (N, 1008). `seen` is told the
   * result of every stage, by its key.
   */
  forward(
    x: Tensor,
    seen: (key: string, y: Tensor) => void = () => undefined,
  ): { readonly features: Tensor; readonly logits: Tensor } {
    let h = x;
    this.#stem.forEach((layer, i) => {
      h = layer === 'halve' ? maxPool2d(h, 3, { stride: 2 }) : layer.forward(h);
      const spec = stem[i];
      if (spec !== undefined && spec !== 'halve') seen(spec[0], h);
    });
    for (const [key, block] of this.#blocks) {
      h = block.forward(h);
      seen(key, h);
    }
    const features = mean(h, [2, 3]);
    return { features, logits: this.#fc.forward(features) };
  }
}
