// conv/data_grad_3_tiled — one implicit GEMM for each stride phase: only the taps that meet this phase are multiplied.
//
//   dy [N, K, OH, OW] · w [K, C, R, S] (+ bias [C])  →  dx [N, C, H, W]
//   Rows h with (h + padH) mod strideH = a see the taps r = a, a + strideH, … only, and likewise columns: phase (a, b) is a
//   dense convolution of dy with stride 1. tile.z = a·strideW + b. With bias it is the forward transposed convolution.
//
// since 2    the operands pass through workgroup memory, as in forward_3_tiled.
// gained     not yet timed on a GPU, for which it is made.
// cost       2·N·K·OH·OW·C·R·S flops, none of them with an inserted zero.
// needs      BK·(BM + 1 + BN)·4 bytes of workgroup memory; any shape. strideH may be passed as R where OH = 1 (one tap a
//            phase), and so for W.
// after      Dumoulin & Visin 2016, §4.6 (what is avoided here).

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

@group(0) @binding(0) var<storage, read> dy: array<Stored>;
@group(0) @binding(1) var<storage, read> w: array<Stored>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<Stored>;

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
}
var<immediate> p: Params;

var<workgroup> As: array<f32, BK * (BM + 1u)>; // [t][m]; the odd row length spreads the banks
var<workgroup> Bs: array<f32, BK * BN>; // [t][column]

// How many of first, first + step, … are < end.
fn countOf(first: u32, step: u32, end: u32) -> u32 {
  return select(0u, (end - first + step - 1u) / step, first < end);
}

// This workgroup's tile: x of columns, y of rows, z the phase. FOLDED: the workgroups come in one row with the tiles of
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
  // The phase with the most pixels sets how many columns of workgroups each has.
  let most = p.N * countOf(0u, p.strideH, p.H) * countOf(0u, p.strideW, p.W);
  let tile = tile_of(group, groups, most, p.strideH * p.strideW);
  let m0 = tile.y * BM;
  let column0 = tile.x * BN;

  // The phase: its taps (a + strideH·i, b + strideW·j), its pixels (h0 + strideH·…, v0 + strideW·…).
  let a0 = tile.z / p.strideW;
  let b0 = tile.z % p.strideW;
  let tapsH = countOf(a0, p.strideH, p.R);
  let tapsW = countOf(b0, p.strideW, p.S);
  let taps = tapsH * tapsW;
  let T = p.K * taps;
  let h0 = (a0 + p.strideH - p.padH % p.strideH) % p.strideH;
  let v0 = (b0 + p.strideW - p.padW % p.strideW) % p.strideW;
  let rows = countOf(h0, p.strideH, p.H);
  let cols = countOf(v0, p.strideW, p.W);
  let area = rows * cols;
  let P = p.N * area;

  // This thread loads one column of the B tile: the dy position that tap (a0, b0) meets. Later taps meet earlier ones.
  let loadColumn = column0 + local % BN;
  let n = loadColumn / max(area, 1u);
  let oh0 = (h0 + p.padH) / p.strideH + loadColumn % max(area, 1u) / max(cols, 1u);
  let ow0 = (v0 + p.padW) / p.strideW + loadColumn % max(cols, 1u);

  for (var t0 = 0u; t0 < T; t0 += BK) {
    for (var e = local; e < BM * BK; e += THREADS) {
      let m = m0 + e / BK;
      let t = t0 + e % BK;
      let k = t / taps;
      let r = a0 + t % taps / tapsW * p.strideH;
      let s = b0 + t % taps % tapsW * p.strideW;
      let inside = m < p.C && t < T;
      let value = f32(w[select(0u, ((k * p.C + m) * p.R + r) * p.S + s, inside)]);
      As[e % BK * (BM + 1u) + e / BK] = select(0.0, value, inside);
    }
    for (var e = local; e < BN * BK; e += THREADS) {
      let t = t0 + e / BN;
      let k = t / taps;
      let oh = oh0 - t % taps / tapsW; // wraps below 0, and then is not < OH
      let ow = ow0 - t % taps % tapsW;
      let inside = t < T && loadColumn < P && oh < p.OH && ow < p.OW;
      let value = f32(dy[select(0u, ((n * p.K + k) * p.OH + oh) * p.OW + ow, inside)]);
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
    if (column < P) {
      let h = h0 + column % area / cols * p.strideH;
      let v = v0 + column % cols * p.strideW;
      for (var i = 0u; i < TM; i++) {
        let m = m0 + ty * TM + i;
        if (m < p.C) {
          var value = acc[i][j];
          if (BIAS) {
            value += bias[m];
          }
          dx[((column / area * p.C + m) * p.H + h) * p.W + v] = Stored(value);
        }
      }
    }
  }
}
