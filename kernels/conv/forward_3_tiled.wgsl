// conv/forward_3_tiled — implicit GEMM: a workgroup owns BM channels × BN pixels and stages both operands BK taps deep.
//
//   x [N, C, H, W] · w [K, C, R, S] (+ bias [K], activation)  →  y [N, K, OH, OW]
//   as W [K, T] · im2col(x) [T, P] with T = C·R·S and P = N·OH·OW; the im2col matrix is never written, its elements are
//   found while a tile is loaded.
//
// since 2    the operands pass through workgroup memory: each element loaded from global memory serves BM or BN threads' sums.
// gained     not yet timed on a GPU, for which it is made.
// cost       2·K·P·T flops; reads (P/BN)·K·T + (K/BM)·P·T elements.
// needs      BK·(BM + 1 + BN)·4 bytes of workgroup memory; any shape (edges are loaded as 0); THREADS % BN = 0.
// after      Chetlur et al. 2014, §3.

alias Stored = f32;

const BM = 64u;
const BN = 64u;
const BK = 16u;
const TM = 4u;
const TN = 4u;
const TX = BN / TN;
const THREADS = BM * BN / (TM * TN);
const FOLDED = false;
const BIAS = false;

// The activation of the result: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;
const ACT = NONE;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> w: array<Stored>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Stored>;

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
  slope: f32,
}
var<immediate> p: Params;

var<workgroup> As: array<f32, BK * (BM + 1u)>; // [t][m]; the odd row length spreads the banks
var<workgroup> Bs: array<f32, BK * BN>; // [t][column]

// This workgroup's tile: x of columns, y of rows. FOLDED: the workgroups come in one row with the tiles of rows
// outermost, so that those past the last one have rows past the end.
fn tile_of(group: vec3u, groups: vec3u, columns: u32) -> vec2u {
  if (!FOLDED) {
    return group.xy;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (columns + BN - 1u) / BN;
  return vec2u(i % across, i / across);
}

// max drops NaN, which is told by the bits, since a compiler may take for granted that no float is NaN.
fn activated(y: f32) -> f32 {
  if (ACT == RELU) {
    let isNaN = (bitcast<u32>(y) & 0x7fffffffu) > 0x7f800000u;
    return select(max(y, 0.0), y, isNaN);
  }
  if (ACT == LEAKY_RELU) { return select(p.slope * y, y, y > 0.0); }
  return y;
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
  let area = p.OH * p.OW;
  let P = p.N * area;
  let tile = tile_of(group, groups, P);
  let m0 = tile.y * BM;
  let column0 = tile.x * BN;
  let RS = p.R * p.S;
  let T = p.C * RS;

  // This thread loads one column of the B tile; where that column's window begins is found once.
  let loadColumn = column0 + local % BN;
  let n = loadColumn / area;
  let oh = loadColumn % area / p.OW;
  let ow = loadColumn % p.OW;
  let h0 = oh * p.strideH - p.padH; // wraps above the image, and then is not < H
  let v0 = ow * p.strideW - p.padW;

  for (var t0 = 0u; t0 < T; t0 += BK) {
    for (var e = local; e < BM * BK; e += THREADS) {
      let m = m0 + e / BK;
      let t = t0 + e % BK;
      let inside = m < p.K && t < T;
      let value = f32(w[select(0u, m * T + t, inside)]);
      As[e % BK * (BM + 1u) + e / BK] = select(0.0, value, inside);
    }
    for (var e = local; e < BN * BK; e += THREADS) {
      let t = t0 + e / BN;
      let c = t / RS;
      let h = h0 + t % RS / p.S;
      let v = v0 + t % p.S;
      let inside = t < T && loadColumn < P && h < p.H && v < p.W;
      let value = f32(x[select(0u, ((n * p.C + c) * p.H + h) * p.W + v, inside)]);
      Bs[e] = select(0.0, value, inside);
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
    let place = column / area * p.K * area + column % area;
    for (var i = 0u; i < TM; i++) {
      let m = m0 + ty * TM + i;
      if (m < p.K && column < P) {
        var value = acc[i][j];
        if (BIAS) {
          value += bias[m];
        }
        y[place + m * area] = Stored(activated(value));
      }
    }
  }
}
