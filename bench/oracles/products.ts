// Sums of products: matmul and the three convolutions, as in test/reference/matmul.ts and conv.ts.
import type { ConvDims } from '../../src/kernels/conv.ts';
import type { MatmulDims } from '../../src/kernels/matmul.ts';
import { productOracle } from './oracle.ts';

export const matmulOracle = productOracle<MatmulDims>({
  ladder: 'matmul',
  names: ['a', 'b', 'out'],
  size: ({ batch, M, N }) => batch * M * N,
  cost: ({ K }) => K,
  each({ M, N, K, strideA, strideB, transA, transB }, i, add) {
    const [n, m, g] = [i % N, Math.floor(i / N) % M, Math.floor(i / (M * N))];
    for (let k = 0; k < K; k++) {
      add(
        g * strideA + (transA ? k * M + m : m * K + k),
        g * strideB + (transB ? n * K + k : k * N + n),
      );
    }
  },
});

/** Place of element (n, c, h, w) of a tensor [·, C, H, W]. */
const at = (sizes: readonly [number, number, number], n: number, c: number, h: number, w: number) =>
  ((n * sizes[0] + c) * sizes[1] + h) * sizes[2] + w;

/** The four indices of place `i` of a tensor [·, C, H, W]. */
function indexOf(i: number, [C, H, W]: readonly [number, number, number]) {
  const [w, h] = [i % W, Math.floor(i / W) % H];
  return [Math.floor(i / (C * H * W)), Math.floor(i / (H * W)) % C, h, w] as const;
}

const inside = (i: number, size: number) => i >= 0 && i < size;

export const convForwardOracle = productOracle<ConvDims>({
  ladder: 'conv-forward',
  names: ['x', 'w', 'out'],
  size: ({ N, K, OH, OW }) => N * K * OH * OW,
  cost: ({ C, R, S }) => C * R * S,
  each(d, i, add) {
    const [n, k, p, q] = indexOf(i, [d.K, d.OH, d.OW]);
    for (let c = 0; c < d.C; c++) {
      for (let a = 0; a < d.R; a++) {
        for (let b = 0; b < d.S; b++) {
          const [h, w] = [p * d.strideH - d.padH + a, q * d.strideW - d.padW + b];
          if (!inside(h, d.H) || !inside(w, d.W)) continue;
          add(at([d.C, d.H, d.W], n, c, h, w), at([d.C, d.R, d.S], k, c, a, b));
        }
      }
    }
  },
});

export const convDataGradOracle = productOracle<ConvDims>({
  ladder: 'conv-data-grad',
  names: ['dy', 'w', 'out'],
  size: ({ N, C, H, W }) => N * C * H * W,
  cost: ({ K, R, S }) => K * R * S,
  each(d, i, add) {
    const [n, c, h, w] = indexOf(i, [d.C, d.H, d.W]);
    for (let k = 0; k < d.K; k++) {
      for (let a = 0; a < d.R; a++) {
        for (let b = 0; b < d.S; b++) {
          const [p, q] = [(h + d.padH - a) / d.strideH, (w + d.padW - b) / d.strideW];
          if (!Number.isInteger(p) || !Number.isInteger(q)) continue;
          if (!inside(p, d.OH) || !inside(q, d.OW)) continue;
          add(at([d.K, d.OH, d.OW], n, k, p, q), at([d.C, d.R, d.S], k, c, a, b));
        }
      }
    }
  },
});

export const convWeightGradOracle = productOracle<ConvDims>({
  ladder: 'conv-weight-grad',
  names: ['x', 'dy', 'out'],
  size: ({ K, C, R, S }) => K * C * R * S,
  cost: ({ N, OH, OW }) => N * OH * OW,
  each(d, i, add) {
    const [k, c, a, b] = indexOf(i, [d.C, d.R, d.S]);
    for (let n = 0; n < d.N; n++) {
      for (let p = 0; p < d.OH; p++) {
        for (let q = 0; q < d.OW; q++) {
          const [h, w] = [p * d.strideH - d.padH + a, q * d.strideW - d.padW + b];
          if (!inside(h, d.H) || !inside(w, d.W)) continue;
          add(at([d.C, d.H, d.W], n, c, h, w), at([d.K, d.OH, d.OW], n, k, p, q));
        }
      }
    }
  },
});
