import { attentionFamily } from './attention.ts';
import { convFamily } from './conv.ts';
import type { Family } from './family.ts';
import { matmulFamily } from './matmul.ts';
import { normFamily } from './norm.ts';
import { softmaxFamily } from './softmax.ts';
import { spectralFamily } from './spectral.ts';

/** What `wgsagan bench` measures rung by rung. */
export const families: readonly Family[] = [
  attentionFamily,
  matmulFamily,
  convFamily,
  softmaxFamily,
  normFamily,
  spectralFamily,
];
