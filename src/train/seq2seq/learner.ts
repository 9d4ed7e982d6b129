import { grad } from '../../autograd/tape.ts';
import type { Tape } from '../../autograd/tape.ts';
import { tensor } from '../../autograd/tensor.ts';
import type { Tensor } from '../../autograd/tensor.ts';
import type { Pair } from '../../data/pairs.ts';
import { special } from '../../data/vocabulary.ts';
import type { Vocabulary } from '../../data/vocabulary.ts';
import { Transformer } from '../../models/transformer.ts';
import { crossEntropy } from '../../ops/cross-entropy.ts';
import { reshape } from '../../ops/layout.ts';
import { Rng } from '../../ops/random.ts';
import { Adam } from '../../optim/adam.ts';
import { HostRng } from '../../util/philox.ts';
import type { Seq2SeqConfig } from './config.ts';

/** A config whose sequences have a length: the pairs have been looked at. */
export type SizedConfig = Seq2SeqConfig & { readonly length: number };

/** The two sides' words. */
export interface Vocabularies {
  readonly source: Vocabulary;
  readonly target: Vocabulary;
}

/** Everything that training moves, and a checkpoint holds. */
export interface Seq2SeqLearner extends Vocabularies {
  readonly tape: Tape;
  readonly config: SizedConfig;
  readonly model: Transformer;
  readonly optimizer: Adam;
  /** Where dropout draws from. */
  readonly noise: Rng;
}

/** Adds the end word to a source, and to a target the begin word or the end. */
export const lengthWithEnd = ({ length }: SizedConfig) => length + 1;

/** The model of a config, of weights that its seed draws. */
export function createModel(
  tape: Tape,
  config: SizedConfig,
  { source, target, noise }: Vocabularies & { readonly noise: Rng },
): Transformer {
  const { seed, dModel, heads, layers, feedForward, dropout } = config;
  const length = lengthWithEnd(config);
  return new Transformer(tape, {
    ...{ dModel, heads, layers, feedForward, dropout, noise },
    ...{ sourceLength: length, targetLength: length },
    ...{ sourceWords: source.words.length, targetWords: target.words.length },
    rng: new HostRng(seed, { stream: [1, 0] }),
  });
}

export function createSeq2Seq(
  tape: Tape,
  config: SizedConfig,
  { source, target }: Vocabularies,
): Seq2SeqLearner {
  const { seed, lr, beta1, beta2 } = config;
  const noise = new Rng(tape, seed);
  const model = createModel(tape, config, { source, target, noise });
  // Side by side, so that one launch of the optimiser goes over them all.
  tape.gpu.join(
    model.parameters().map((p) => p.storage),
    'parameters',
  );
  const options = { lr, betas: [beta1, beta2], eps: 1e-9 } as const;
  const optimizer = new Adam(tape, [{ params: model.namedParameters() }], options);
  return { tape, config, source, target, model, optimizer, noise };
}

/** Every tensor of a learner under the key that it has in a checkpoint. */
export function* namedTensors({ model, optimizer }: Seq2SeqLearner): Generator<[string, Tensor]> {
  for (const [name, value] of model.stateDict()) yield [`model.${name}`, value];
  for (const [name, value] of optimizer.namedState()) yield [`optimizer.${name}`, value];
}

/** Words of a batch, (batch, length + 1) each, filled up with padding. */
export interface BatchInput {
  /** Ends with the end word. */
  readonly source: Tensor;
  /** Begins with the begin word: what the decoder is told. */
  readonly target: Tensor;
  /** Ends with the end word: what it is to say. */
  readonly labels: Tensor;
}

export function batchInput(tape: Tape, config: SizedConfig): BatchInput {
  const shape = [config.batch, lengthWithEnd(config)];
  const words = (label: string) =>
    tensor(tape, new Uint32Array(config.batch * lengthWithEnd(config)), shape, { label });
  return { source: words('source'), target: words('target'), labels: words('labels') };
}

/** Rows of words side by side, each filled up with padding to `length`. */
export function padded(rows: readonly (readonly number[])[], length: number): Uint32Array {
  const out = new Uint32Array(rows.length * length).fill(special.padding);
  rows.forEach((row, i) => {
    out.set(row, i * length);
  });
  return out;
}

export const withEnd = (words: readonly number[]) => [...words, special.end];
export const withBegin = (words: readonly number[]) => [special.begin, ...words];

export function setBatch(input: BatchInput, pairs: readonly Pair[], config: SizedConfig): void {
  const length = lengthWithEnd(config);
  const rows = (make: (pair: Pair) => readonly number[]) => padded(pairs.map(make), length);
  input.source.set(rows((pair) => withEnd(pair.source)));
  input.target.set(rows((pair) => withBegin(pair.target)));
  input.labels.set(rows((pair) => withEnd(pair.target)));
}

/** One step: loss, gradients, update. Launches only, so that it can be captured. Returns the loss. */
export function trainingStep(
  learner: Seq2SeqLearner,
  { source, target, labels }: BatchInput,
): Tensor {
  const { model, optimizer, noise, config, tape } = learner;
  noise.begin();
  model.train();
  const logits = model.forward(source, target);
  const loss = tape.gpu.within({ layer: 'loss' }, () =>
    crossEntropy(reshape(logits, [labels.size, -1]), reshape(labels, [-1]), {
      labelSmoothing: config.labelSmoothing,
      ignoreIndex: special.padding,
    }),
  );
  optimizer.step(grad([loss], optimizer.parameters()));
  noise.advance();
  return loss;
}
