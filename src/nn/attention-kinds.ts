import type { Tape } from '../autograd/tape.ts';
import { PooledSelfAttention, SelfAttention } from './attention.ts';
import type { AttentionLayer, BlockOptions } from './attention.ts';
import { ClassAttention } from './class-attention.ts';
import { AttentionGenerator } from './gate-attention.ts';
import { HybridAttention } from './hybrid-attention.ts';
import { LinearSelfAttention } from './linear-attention.ts';
import { MultiHeadSelfAttention } from './multi-head.ts';
import { TopkSelfAttention } from './topk-attention.ts';

/** What some of the kinds are told besides. */
export interface AttentionSizes {
  /** Heads of multihead; they must divide the channels. Default 4. */
  readonly heads?: number | undefined;
  /** Positions that each one looks at in topk. Default 16. */
  readonly topk?: number | undefined;
}

type KindOptions = BlockOptions & AttentionSizes;
type MakeAttention = (tape: Tape, channels: number, options: KindOptions) => AttentionLayer;

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
  /** Several maps side by side, each of a slice of the channels (system 10). */
  multihead: (tape, channels, { heads = 4, ...options }) =>
    new MultiHeadSelfAttention(tape, channels, { ...options, heads }),
  /** Only the largest scores of a position (system 14). */
  topk: (tape, channels, { topk = 16, ...options }) =>
    new TopkSelfAttention(tape, channels, { ...options, topk }),
  /** Features in the place of exponentials: linear in the positions (system 17). */
  linear: (tape, channels, options) => new LinearSelfAttention(tape, channels, options),
  /** Squeeze-and-excitation of the channels, then plain (system 16). */
  hybrid: (tape, channels, options) => new HybridAttention(tape, channels, options),
  /** A gate made by convolutions; no position looks at another (system 12). */
  gate: (tape, channels, options) => {
    const attentionChannels = Math.max(1, Math.floor(channels / 8));
    return new AttentionGenerator(tape, channels, {
      ...{ rng: options.rng, init: options.init, spectral: options.spectral },
      ...{ outChannels: channels, attentionChannels },
    });
  },
} as const satisfies Record<string, MakeAttention>;

/** 'none' leaves the blocks out. */
export type AttentionKind = keyof typeof attentionKinds | 'none';
export const attentionKindNames: readonly [AttentionKind, ...AttentionKind[]] = [
  'none',
  ...(Object.keys(attentionKinds) as (keyof typeof attentionKinds)[]),
];

/** What a net says of its attention: the kind and what that kind is told. */
export interface AttentionChoice extends AttentionSizes {
  readonly attention: AttentionKind;
}

/** The block of the kind that is chosen; none for 'none'. */
export function attentionOf(
  { attention, heads, topk }: AttentionChoice,
  tape: Tape,
  channels: number,
  options: BlockOptions,
): readonly AttentionLayer[] {
  if (attention === 'none') return [];
  return [attentionKinds[attention](tape, channels, { ...options, heads, topk })];
}
