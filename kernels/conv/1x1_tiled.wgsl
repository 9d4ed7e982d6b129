// conv/1x1_tiled — a 1×1 convolution is a matrix product for each image: no window, no border, no im2col.
//
//   forward     y[n]  [K, HW] = W [K, C] · x[n] [C, HW] (+ bias [K], activation)
//   data grad   dx[n] [C, HW] = Wᵀ · dy[n] [K, HW] (+ bias [C])     TRANSPOSED
//   M rows come out, T are summed over; tile.z = n.
//
// since 1    both operands are staged BK deep in workgroup memory; each element loaded serves BM or BN sums.
// gained     not yet timed on a GPU, for which it is made.
// cost       2·N·M·T·HW flops; reads N·((HW/BN)·M·T + (M/BM)·T·HW) elements.
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
const TRANSPOSED = false;
const BIAS = false;

// The activation of a forward convolution's result: none, max(y, 0), or y > 0 ? y : slope·y.
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
  M: u32,
  T: u32,
  HW: u32,
  slope: f32,
}
var<immediate> p: Params;

var<workgroup> As: array<f32, BK * (BM + 1u)>; // [t][m]; the odd row length spreads the banks
var<workgroup> Bs: array<f32, BK * BN>; // [t][column]

// This workgroup's tile: x of columns, y of rows, z the image. FOLDED: the workgroups come in one row with the tiles of
// rows outermost, so that those past the last one have rows past the end.
fn tile_of(group: vec3u, groups: vec3u, columns: u32, depth: u32) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (columns + BN - 1u) / BN;
  return vec3u(i % across, i / (across * depth), i / across % depth);
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
  let tile = tile_of(group, groups, p.HW, p.N);
  let m0 = tile.y * BM;
  let column0 = tile.x * BN;
  let image = tile.z * p.T * p.HW;
  for (var t0 = 0u; t0 < p.T; t0 += BK) {
    for (var e = local; e < BM * BK; e += THREADS) {
      // Neighbouring threads read neighbouring weights in either layout.
      let i = select(e / BK, e % BM, TRANSPOSED);
      let d = select(e % BK, e / BM, TRANSPOSED);
      let m = m0 + i;
      let t = t0 + d;
      let inside = m < p.M && t < p.T;
      let at = select(m * p.T + t, t * p.M + m, TRANSPOSED);
      let value = f32(w[select(0u, at, inside)]);
      As[d * (BM + 1u) + i] = select(0.0, value, inside);
    }
    for (var e = local; e < BN * BK; e += THREADS) {
      let t = t0 + e / BN;
      let column = column0 + e % BN;
      let inside = t < p.T && column < p.HW;
      let value = f32(x[select(0u, image + t * p.HW + column, inside)]);
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
    for (var i = 0u; i < TM; i++) {
      let m = m0 + ty * TM + i;
      if (m < p.M && column < p.HW) {
        var value = acc[i][j];
        if (BIAS) {
          value += bias[m];
        }
        y[(tile.z * p.M + m) * p.HW + column] = Stored(activated(value));
      }
    }
  }
}
