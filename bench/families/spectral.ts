import type { AnyLadder } from '../../src/kernels/ladders.ts';
import { powerIterationLadder } from '../../src/kernels/spectral.ts';
import type { MatrixSizes } from '../../src/kernels/spectral-table.ts';
import { num } from './family.ts';
import type { Family } from './family.ts';

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
      ladder: (): AnyLadder => powerIterationLadder,
      dims: (sizes): MatrixSizes => ({
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
