// conv/weight_grad_3_tiled — implicit GEMM over pixels, split: tile.z adds up one part of the batch's positions.
//
//   x [N, C, H, W] · dy [N, K, OH, OW]  →  parts [PARTS, stride], parts[z, (k,c,r,s)]; sum_parts adds them in fixed order
//   as dY [K, P] · im2col(x)ᵀ [P, C·R·S] with P = N·OH·OW; part z is positions z·chunk … (z + 1)·chunk - 1.
//
// since 2    the operands pass through workgroup memory; a small dw still fills the GPU because the positions are split.
// gained     not yet timed on a GPU, for which it is made.
// cost       2·K·P·C·R·S flops; reads PARTS·chunk·(C·R·S/BN·K + K/BM·C·R·S) elements, writes PARTS·K·C·R·S.
// needs      BK·(BM + 1 + BN)·4 bytes of workgroup memory; any shape.

alias Stored = f32;

const BM = 64u;
const BN = 64u;
const BK = 16u;
const TM = 4u;
const TN = 4u;
const TX = BN / TN;
const THREADS = BM * BN / (TM * TN);
const FOLDED = false;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;

struct Params {
  N: u32,
  C: u32,
  H: u32,
  W: u32,
  K: u32,
  R: u32,
  S: u32,
  OH: u32,
  OW: u32,
  strideH: u32,
  strideW: u32,
  padH: u32,
  padW: u32,
  chunk: u32,
  stride: u32,
}
var<immediate> p: Params;

var<workgroup> As: array<f32, BK * (BM + 1u)>; // [t][m]; the odd row length spreads the banks
var<workgroup> Bs: array<f32, BK * BN>; // [t][column]

// This workgroup's tile: x of columns, y of rows, z the part. FOLDED: the workgroups come in one row with the tiles of
// rows outermost, so that those past the last one have rows past the end.
fn tile_of(group: vec3u, groups: vec3u, columns: u32, depth: u32) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (columns + BN - 1u) / BN;
  return vec3u(i % across, i / (across * depth), i / across % depth);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let tx = local % TX;
  let ty = local / TX;
  var acc: array<array<f32, TN>, TM>;
  let RS = p.R * p.S;
  let columns = p.C * RS;
  let area = p.OH * p.OW;
  let tile = tile_of(group, groups, columns, max((p.N * area + p.chunk - 1u) / p.chunk, 1u));
  let m0 = tile.y * BM;
  let column0 = tile.x * BN;
  let first = tile.z * p.chunk;
  let end = min(first + p.chunk, p.N * area);

  for (var t0 = first; t0 < end; t0 += BK) {
    for (var e = local; e < BM * BK; e += THREADS) {
      let m = m0 + e / BK;
      let t = t0 + e % BK;
      let inside = m < p.K && t < end;
      let value = f32(dy[select(0u, (t / area * p.K + m) * area + t % area, inside)]);
      As[e % BK * (BM + 1u) + e / BK] = select(0.0, value, inside);
    }
    for (var e = local; e < BN * BK; e += THREADS) {
      let column = column0 + e / BK;
      let t = t0 + e % BK;
      let n = t / area;
      let c = column / RS;
      // Wraps above the image, and then is not < H.
      let h = t % area / p.OW * p.strideH + column % RS / p.S - p.padH;
      let v = t % p.OW * p.strideW + column % p.S - p.padW;
      let inside = column < columns && t < end && h < p.H && v < p.W;
      let value = f32(x[select(0u, ((n * p.C + c) * p.H + h) * p.W + v, inside)]);
      Bs[e % BK * BN + e / BK] = select(0.0, value, inside);
    }
    workgroupBarrier(); // both tiles are whole
    for (var t = 0u; t < BK; t++) {
      var a: array<f32, TM>;
      for (var i = 0u; i < TM; i++) {
        a[i] = As[t * (BM + 1u) + ty * TM + i];
      }
      for (var j = 0u; j < TN; j++) {
        let b = Bs[t * BN + tx + j * TX];
        for (var i = 0u; i < TM; i++) {
          acc[i][j] = fma(a[i], b, acc[i][j]);
        }
      }
    }
    workgroupBarrier(); // everyone has read them
  }

  for (var j = 0u; j < TN; j++) {
    let column = column0 + tx + j * TX;
    for (var i = 0u; i < TM; i++) {
      let m = m0 + ty * TM + i;
      if (m < p.K && column < columns) {
        parts[tile.z * p.stride + m * columns + column] = acc[i][j];
      }
    }
  }
}
