import { typeAs } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { reshape } from '../ops/layout.ts';
import { add } from '../ops/pointwise.ts';
import { dim } from '../util/shape.ts';
import { SelfAttention } from './attention.ts';
import type { Queries, SelfAttentionOptions } from './attention.ts';
import { Embedding } from './embedding.ts';
import { zeros } from './init.ts';

/**
 * SelfAttention in which an image's class has a say in where its positions look (system 9): query and key are those of
 * x + e(class), the value is that of x. The table e [classes, channels], key embed.weight, begins at 0, where the block is
 * SelfAttention, and is not spectrally normalised.
 */
export class ClassAttention extends SelfAttention {
  readonly #embed: Embedding;

  /** Throws a RangeError without classes. */
  constructor(tape: Tape, channels: number, options: SelfAttentionOptions) {
    super(tape, channels, options);
    const { rng, classes = 0 } = options;
    if (classes < 1) throw new RangeError('ClassAttention: classes are missing');
    this.#embed = this.child('embed', new Embedding(tape, classes, channels, { rng, init: zeros }));
  }

  /** x (N, C, H, W), labels (N) u32. Throws a RangeError without labels. */
  override forward(x: Tensor, labels?: Tensor): Tensor {
    return this.attend(x, this.#told(x, labels));
  }

  override maps(x: Tensor, queries: Queries, labels?: Tensor): Tensor {
    return super.maps(this.#told(x, labels), queries);
  }

  #told(x: Tensor, labels: Tensor | undefined): Tensor {
    if (labels === undefined) {
      throw new RangeError('ClassAttention: labels are missing; one class an image is needed');
    }
    const e = reshape(this.#embed.forward(labels), [dim(x.shape, 0), dim(x.shape, 1), 1, 1]);
    return add(x, typeAs(e, x));
  }
}
