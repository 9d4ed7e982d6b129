import type { Gpu } from '../../src/gpu/device.ts';
import type { AnyLadder } from '../../src/kernels/ladders.ts';
import type { Ladder, Rung } from '../../src/kernels/rung.ts';
import {
  chooseSpectral,
  powerIteration,
  rowsThreadScalar,
  rowsTree,
} from '../../src/kernels/spectral.ts';
import type { PowerIterationArgs, SpectralRung } from '../../src/kernels/spectral.ts';
import type { SpectralDims } from '../oracles/rows.ts';
import { num } from './family.ts';
import type { Family } from './family.ts';

type Operand = 'w' | 'u' | 'v' | 'sigma' | 'uOut' | 'vOut';

const rungOf = (rung: SpectralRung): Rung<SpectralDims, PowerIterationArgs> => ({
  name: rung === 'thread' ? 'spectral/rows_thread' : 'spectral/rows_tree',
  kernels: [rung === 'thread' ? rowsThreadScalar : rowsTree],
  fits: () => true,
  tiles: () => [{}],
  run: (gpu, args) => {
    powerIteration(gpu, { ...args, rung });
  },
});

const rungs: Readonly<Record<SpectralRung, ReturnType<typeof rungOf>>> = {
  thread: rungOf('thread'),
  tree: rungOf('tree'),
};

/** One power iteration. The engine chooses by the adapter alone, so that this ladder is the bench's own. */
const spectralLadder: Ladder<SpectralDims, PowerIterationArgs, Operand> = {
  name: 'spectral',
  rungs: [rungs.thread, rungs.tree],
  preferred: (gpu: Gpu) => [rungs[chooseSpectral(gpu)].name],
  dimsOf: ({ outer, rows, inner }) => ({ outer, rows, inner }),
  operands({ outer, rows, inner }) {
    const cols = outer * inner;
    return { w: rows * cols, u: rows, v: cols, sigma: 1, uOut: rows, vOut: cols };
  },
  outputs: ['sigma', 'uOut', 'vOut'],
  argsOf: (dims, storages) => ({ ...dims, ...storages, eps: 1e-12, update: true }),
  // Two products, and three numbers for each of u and v.
  flops: ({ outer, rows, inner }) => 4 * outer * rows * inner + 3 * (rows + outer * inner),
  bytes: ({ outer, rows, inner }) => 4 * (outer * rows * inner + 3 * (rows + outer * inner)),
};

export const spectralFamily: Family = {
  name: 'spectral',
  help: 'one power iteration of spectral normalisation, every rung side by side',
  axes: [
    { name: 'rows', help: 'channels out' },
    { name: 'cols', help: 'channels in × window' },
  ],
  passes: [
    {
      name: 'forward',
      ladder: (): AnyLadder => spectralLadder,
      dims: (sizes): SpectralDims => ({
        ...{ outer: 1, rows: num(sizes, 'rows'), inner: num(sizes, 'cols') },
      }),
    },
  ],
  // The weights of the discriminator of sagan-64.
  usualCases: () => [
    { rows: 64, cols: 48 },
    { rows: 128, cols: 1024 },
    { rows: 256, cols: 2048 },
    { rows: 512, cols: 4096 },
  ],
  label: (sizes) => `weight ${sizes['rows']}×${sizes['cols']}`,
};
