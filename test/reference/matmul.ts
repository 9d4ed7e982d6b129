// C = A·B over broadcast leading dims, torch.matmul's meaning for rank ≥ 2.
//   A [...batchA, M, K], or [...batchA, K, M] with transA
//   B [...batchB, K, N], or [...batchB, N, K] with transB
//   C [...broadcast(batchA, batchB), M, N]
import { type Data, type Round } from './naive.ts';
import { broadcastOffsets, broadcastShape, numel } from './shape.ts';

export interface Matmul {
  readonly a: Data;
  readonly b: Data;
  readonly batchA?: readonly number[];
  readonly batchB?: readonly number[];
  readonly M: number;
  readonly K: number;
  readonly N: number;
  readonly transA?: boolean;
  readonly transB?: boolean;
}

/** Calls `visit` with the flat offsets of every product a·b that goes into c, k innermost. */
function eachProduct(o: Matmul, visit: (ia: number, ib: number, ic: number) => void): void {
  const { M, K, N, batchA = [], batchB = [], transA = false, transB = false } = o;
  const batch = broadcastShape(batchA, batchB);
  const offA = broadcastOffsets(batchA, batch);
  const offB = broadcastOffsets(batchB, batch);
  for (let g = 0; g < numel(batch); g++) {
    for (let m = 0; m < M; m++) {
      for (let n = 0; n < N; n++) {
        for (let k = 0; k < K; k++) {
          const ia = offA[g]! * M * K + (transA ? k * M + m : m * K + k);
          const ib = offB[g]! * K * N + (transB ? n * K + k : k * N + n);
          visit(ia, ib, (g * M + m) * N + n);
        }
      }
    }
  }
}

export function matmul(o: Matmul, r: Round): Float64Array {
  const batch = broadcastShape(o.batchA ?? [], o.batchB ?? []);
  const c = new Float64Array(numel(batch) * o.M * o.N);
  eachProduct(o, (ia, ib, ic) => {
    c[ic] = r(c[ic]! + r(o.a[ia]! * o.b[ib]!));
  });
  return c;
}

/** da and db in the stored layout of a and b; a broadcast batch is summed. */
export function matmulBackward(
  o: Matmul,
  dy: Data,
  r: Round,
): { da: Float64Array; db: Float64Array } {
  const da = new Float64Array(o.a.length);
  const db = new Float64Array(o.b.length);
  eachProduct(o, (ia, ib, ic) => {
    da[ia] = r(da[ia]! + r(dy[ic]! * o.b[ib]!));
    db[ib] = r(db[ib]! + r(dy[ic]! * o.a[ia]!));
  });
  return { da, db };
}
