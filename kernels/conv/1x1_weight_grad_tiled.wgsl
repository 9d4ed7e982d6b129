// conv/1x1_weight_grad_tiled — dW = Σ_n dY[n] · X[n]ᵀ, split: tile.z adds up a chunk of the N·HW positions.
//
//   x [N, C, HW] · dy [N, K, HW]  →  parts [PARTS, stride], parts[z, (k, c)]; sum_parts adds them in fixed order
//
// since 1    both operands are staged BK positions deep in workgroup memory.
// gained     not yet timed on a GPU, for which it is made.
// cost       2·N·HW·K·C flops; reads N·HW·((C/BN)·K + (K/BM)·C) elements, writes PARTS·K·C.
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
  K: u32,
  HW: u32,
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
  let tile = tile_of(group, groups, p.C, max((p.N * p.HW + p.chunk - 1u) / p.chunk, 1u));
  let m0 = tile.y * BM;
  let column0 = tile.x * BN;
  let first = tile.z * p.chunk;
  let end = min(first + p.chunk, p.N * p.HW);
  for (var t0 = first; t0 < end; t0 += BK) {
    // BM or BN rows of BK adjacent positions; a thread's position is the same in every row that it loads.
    let t = t0 + local % BK;
    let n = t / p.HW;
    let at = t % p.HW;
    for (var i = local / BK; i < BM; i += THREADS / BK) {
      let inside = m0 + i < p.K && t < end;
      let value = f32(dy[select(0u, (n * p.K + m0 + i) * p.HW + at, inside)]);
      As[local % BK * (BM + 1u) + i] = select(0.0, value, inside);
    }
    for (var i = local / BK; i < BN; i += THREADS / BK) {
      let inside = column0 + i < p.C && t < end;
      let value = f32(x[select(0u, (n * p.C + column0 + i) * p.HW + at, inside)]);
      Bs[local % BK * BN + i] = select(0.0, value, inside);
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
      if (m < p.K && column < p.C) {
        parts[tile.z * p.stride + m * p.C + column] = acc[i][j];
      }
    }
  }
}
