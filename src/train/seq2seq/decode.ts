import { tensor } from '../../autograd/tensor.ts';
import type { Tensor } from '../../autograd/tensor.ts';
import type { Pair } from '../../data/pairs.ts';
import { special } from '../../data/vocabulary.ts';
import type { Program } from '../../gpu/program.ts';
import type { Transformer } from '../../models/transformer.ts';
import { argmax } from '../../ops/reduce.ts';
import { padded, withEnd } from './learner.ts';

export interface DecodeSizes {
  /** Sequences in one run of the programs. */
  readonly batch: number;
  /** Words of a sequence, its end included. */
  readonly length: number;
}

interface Words {
  readonly source: Tensor;
  readonly target: Tensor;
}

/**
 * Greedy decoding: the encoder once, then the decoder once a word, each time over the whole target as far as it is known; the
 * likeliest next word of each sequence is the one that it goes on with.
 */
export class Decoder {
  readonly #sizes: DecodeSizes;
  readonly #words: Words;
  /** The likeliest word behind each of the target's, (batch, length) u32. */
  readonly #next: Tensor;
  readonly #encode: Program;
  readonly #decode: Program;

  private constructor(parts: {
    sizes: DecodeSizes;
    words: Words;
    next: Tensor;
    encode: Program;
    decode: Program;
  }) {
    this.#sizes = parts.sizes;
    this.#words = parts.words;
    this.#next = parts.next;
    this.#encode = parts.encode;
    this.#decode = parts.decode;
  }

  /** Leaves the model in training mode, as it is made. */
  static async open(model: Transformer, sizes: DecodeSizes): Promise<Decoder> {
    const { tape } = model;
    const { gpu } = tape;
    const blank = new Uint32Array(sizes.batch * sizes.length);
    const inputOf = (label: string) => tensor(tape, blank, [sizes.batch, sizes.length], { label });
    const words = { source: inputOf('source to decode'), target: inputOf('target so far') };
    const capture = async (body: () => Tensor) => {
      let made = words.source;
      const captured = gpu.capture(() => {
        made = tape.noGrad(body);
        return [made.storage];
      });
      return { made, program: await captured.build() };
    };
    model.eval();
    try {
      const encode = await capture(() => model.encode(words.source));
      const decode = await capture(() =>
        argmax(model.decode(encode.made, words.source, words.target)),
      );
      const programs = { encode: encode.program, decode: decode.program };
      return new Decoder({ sizes, words, next: decode.made, ...programs });
    } finally {
      model.train();
    }
  }

  /** Words of the translations, without begin and end, of sources without them. Of any number. */
  async translate(sources: readonly (readonly number[])[]): Promise<number[][]> {
    const { batch } = this.#sizes;
    const found: number[][] = [];
    for (let at = 0; at < sources.length; at += batch) {
      found.push(...(await this.#translateBatch(sources.slice(at, at + batch))));
    }
    return found;
  }

  /** The part of the pairs whose translation is the target, word for word. */
  async exact(pairs: readonly Pair[]): Promise<number> {
    const found = await this.translate(pairs.map(({ source }) => source));
    const right = pairs.filter(({ target }, i) => found[i]?.join() === target.join());
    return right.length / pairs.length;
  }

  close(): void {
    this.#encode.destroy();
    this.#decode.destroy();
  }

  async #translateBatch(sources: readonly (readonly number[])[]): Promise<number[][]> {
    const { batch, length } = this.#sizes;
    // A row too many is an empty source: it has its end, so that there is something to look at.
    const rows = Array.from({ length: batch }, (_, b) => withEnd(sources[b] ?? []));
    this.#words.source.set(padded(rows, length));
    this.#encode.run();
    const found = sources.map((): number[] => []);
    const open = new Set(found.keys());
    const target = new Uint32Array(batch * length).fill(special.padding);
    for (let b = 0; b < batch; b++) target[b * length] = special.begin;
    for (let t = 0; t < length && open.size > 0; t++) {
      this.#words.target.set(target);
      this.#decode.run();
      const next = await this.#next.readU32();
      for (const b of open) {
        const word = next[b * length + t] ?? special.end;
        if (word === special.end) open.delete(b);
        else found[b]?.push(word);
        if (t + 1 < length) target[b * length + t + 1] = word;
      }
    }
    return found;
  }
}
