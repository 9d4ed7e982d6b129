import type { Tape } from '../autograd/tape.ts';
import { PooledSelfAttention, SelfAttention } from './attention.ts';
import type { AttentionLayer, BlockOptions } from './attention.ts';
import { ClassAttention } from './class-attention.ts';

type MakeAttention = (tape: Tape, channels: number, options: BlockOptions) => AttentionLayer;

/** Blocks x → x of any number of channels, by the word that chooses them: `--attention plain`. */
export const attentionKinds = {
  /** softmax(QᵀK)·V (system 1, as the seeds' code has it). */
  plain: (tape, channels, options) => new SelfAttention(tape, channels, options),
  /** The same with scores over √d (system 1, as the seeds' formula has it). */
  scaled: (tape, channels, options) =>
    new SelfAttention(tape, channels, { ...options, scaled: true }),
  /** Keys and values pooled, a fourth convolution (system 2, the authors' code). */
  paper: (tape, channels, options) => new PooledSelfAttention(tape, channels, options),
  /** plain, with query and key of features plus an embedding of the class (system 9). */
  class: (tape, channels, options) => new ClassAttention(tape, channels, options),
} as const satisfies Record<string, MakeAttention>;

/** 'none' leaves the blocks out. */
export type AttentionKind = keyof typeof attentionKinds | 'none';
export const attentionKindNames: readonly [AttentionKind, ...AttentionKind[]] = [
  'none',
  ...(Object.keys(attentionKinds) as (keyof typeof attentionKinds)[]),
];

/** The block of a kind; none for 'none'. */
export function attentionOf(
  kind: AttentionKind,
  ...args: Parameters<MakeAttention>
): readonly AttentionLayer[] {
  return kind === 'none' ? [] : [attentionKinds[kind](...args)];
}
