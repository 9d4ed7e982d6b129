import type { AttentionDims } from '../../src/kernels/attention-common.ts';
import { ladderNamed } from '../../src/kernels/ladders.ts';
import type { LinearDims } from '../../src/kernels/linear-attention.ts';
import type { MaskedDims } from '../../src/kernels/masked-attention.ts';
import { mostKeys } from '../../src/kernels/topk-attention.ts';
import type { TopkDims } from '../../src/kernels/topk-attention.ts';
import { UserError } from '../../src/util/errors.ts';
import { num, precisionAxis, precisionIn, precisionLabel } from './family.ts';
import type { CaseSizes, Family, Pass } from './family.ts';

function plain(sizes: CaseSizes): AttentionDims {
  const layout = sizes['layout'] === 'sequence' ? 'sequence' : 'channel';
  return {
    ...{ B: num(sizes, 'batch'), Nq: num(sizes, 'positions'), Nk: num(sizes, 'keys') },
    // SAGAN does not scale its scores.
    ...{ DK: num(sizes, 'dk'), DV: num(sizes, 'dv'), scale: 1, layout },
    ...precisionIn(sizes),
  };
}

/** Keys hidden by their place, or scores changed by a mask [B, 1, 1, Nk], as padding is told. */
function masked(sizes: CaseSizes, by: 'place' | 'mask'): MaskedDims {
  const dims = plain(sizes);
  const whole = by === 'mask' ? { maskItems: dims.B, maskKeys: dims.Nk } : {};
  return {
    ...{ ...dims, heads: 1, causal: by === 'place', mask: by === 'mask' ? 'additive' : 'none' },
    ...{ maskItems: 1, maskHeads: 1, maskQueries: 1, maskKeys: 1, ...whole },
  };
}

function topk(sizes: CaseSizes): TopkDims {
  const [top, most] = [num(sizes, 'top'), Math.min(num(sizes, 'keys'), mostKeys)];
  if (top > most) throw new UserError(`attention: top ${top} is more than ${most}`);
  return { ...plain(sizes), top };
}

function linear(sizes: CaseSizes): LinearDims {
  const { B, Nq, Nk, DK, DV, layout } = plain(sizes);
  return { B, Nq, Nk, DK, DV, layout, ...precisionIn(sizes) };
}

/** The kinds of attention that have kernels of their own. */
const kinds: Readonly<Record<string, { ladder: string; dims: (sizes: CaseSizes) => object }>> = {
  plain: { ladder: 'attention', dims: plain },
  causal: { ladder: 'masked-attention', dims: (sizes) => masked(sizes, 'place') },
  masked: { ladder: 'masked-attention', dims: (sizes) => masked(sizes, 'mask') },
  topk: { ladder: 'topk-attention', dims: topk },
  linear: { ladder: 'linear-attention', dims: linear },
};

function kindOf({ kind = 'plain' }: CaseSizes) {
  const found = kinds[kind];
  if (found === undefined) throw new Error(`there is no kind ${kind} of attention`);
  return found;
}

const pass = (name: 'forward' | 'backward'): Pass => ({
  name,
  ladder: (sizes) => ladderNamed(`${kindOf(sizes).ladder}-${name}`),
  dims: (sizes) => kindOf(sizes).dims(sizes),
});

const shape = (positions: number, dk: number, dv: number) => ({ batch: 16, positions, dk, dv });

export const attentionFamily: Family = {
  name: 'attention',
  help: 'softmax(QKᵀ)·V and its gradient, every rung side by side; and its relatives',
  axes: [
    { name: 'batch', help: 'images' },
    { name: 'positions', help: 'queries of an image: 1024 for a feature map of 32×32' },
    { name: 'dk', help: 'width of queries and keys' },
    { name: 'dv', help: 'width of values' },
    { name: 'keys', help: 'keys of an image', usual: (sizes) => num(sizes, 'positions') },
    {
      name: 'top',
      help: 'keys that a query of topk looks at',
      usual: (sizes) => Math.min(16, num(sizes, 'keys')),
    },
    {
      name: 'kind',
      help: 'causal hides later keys, masked adds a mask to the scores; all of them if left out',
      words: Object.keys(kinds),
      every: true,
      usual: () => 'plain',
    },
    {
      name: 'layout',
      help: 'channel [B, D, N] as a 1×1 convolution writes it, or sequence [B, N, D]',
      words: ['channel', 'sequence'],
      usual: () => 'channel',
    },
    precisionAxis,
  ],
  passes: [pass('forward'), pass('backward')],
  usualCases: (software) =>
    software
      ? [64, 256, 1024].map((n) => shape(n, 8, 64))
      : [
          ...[64, 256, 1024, 4096, 16384].map((n) => shape(n, 8, 64)),
          ...[shape(4096, 8, 32), shape(4096, 16, 128), shape(4096, 32, 256)],
          shape(4096, 64, 512),
        ],
  label(sizes) {
    const { kind, top } = sizes;
    const what = kind === 'plain' ? '' : kind === 'topk' ? ` top ${top}` : ` ${kind}`;
    const keys = sizes['keys'] === sizes['positions'] ? '' : `→${sizes['keys']}`;
    const layout = sizes['layout'] === 'channel' ? '' : ' sequence';
    return `B${sizes['batch']} N${sizes['positions']}${keys} DK${sizes['dk']} DV${sizes['dv']}${what}${layout}${precisionLabel(sizes)}`;
  },
};
