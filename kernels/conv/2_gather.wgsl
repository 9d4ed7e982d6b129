// conv/2_gather — forward, data gradient and weight gradient are one sum; only the tables that say where to read differ.
//
//   u, x, taps [T] = (x offset, u offset), columns [P] = (x offset, out offset), spans [blocks] = (first tap, end)
//   →  out[columns[j].y + m·outStride] = act(bias[m] + Σ_t u[m·uStride + taps[t].y] · x[columns[j].x + taps[t].x])
//   forward      m = k   column = (n, oh, ow)              tap = (c, r, s)               u = w    x = framed input
//   data grad    m = c   column = (n, h, w) of one phase   tap = (k, r, s) of the phase  u = w    x = framed dy
//   weight grad  m = k   column = (c, r, s)                tap = (n, oh, ow)             u = dy   x = framed input
//
// since 1    TM·TP sums stay in registers: TM + TP loads feed TM·TP multiply-adds. u's address is the same for a whole
//            workgroup (a scalar load on a CPU). Borders are zeros in memory, so the loop tests nothing and divides nothing.
// gained     6 to 14 times rung 1 in CPU time on sagan-32's layers at batch 16 (lavapipe, vectors of 256 bits).
// cost       2·M·P·T flops; reads P·T·(1/TM + 1/TP)·M floats.
// needs      no workgroup memory, no barrier: for software adapters. More than 64 sums, or an unrolled loop, spill.
// after      Chetlur et al. 2014, §3 (implicit GEMM with precomputed offsets).

const TM = 8u;
const TP = 8u;
const WG = 4u;
const BIAS = false;
const FOLDED = false;
const UNUSED = 0xffffffffu;

// The activation of a forward convolution's result: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;
const ACT = NONE;

@group(0) @binding(0) var<storage, read> u: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> taps: array<vec2u>;
@group(0) @binding(3) var<storage, read> columns: array<vec2u>;
@group(0) @binding(4) var<storage, read> spans: array<vec2u>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

struct Params {
  M: u32,
  uStride: u32,
  outStride: u32,
  blocks: u32,
  P: u32,
  T: f32, // mean taps of a column
  reads: f32, // floats of u and x. P, T and reads serve the flop and byte count, not the shader
  slope: f32,
}
var<immediate> p: Params;

var<private> base: array<u32, TP>;
var<private> row: array<u32, TM>;
var<private> acc: array<array<f32, TP>, TM>;

// max drops NaN, which is told by the bits, since a compiler may take for granted that no float is NaN.
fn activated(y: f32) -> f32 {
  if (ACT == RELU) {
    let isNaN = (bitcast<u32>(y) & 0x7fffffffu) > 0x7f800000u;
    return select(max(y, 0.0), y, isNaN);
  }
  if (ACT == LEAKY_RELU) { return select(p.slope * y, y, y > 0.0); }
  return y;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  // FOLDED: the workgroups come in one row, rows of the product innermost.
  let line = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.M + TM - 1u) / TM;
  // Workgroups may pass the last block; they repeat that block with no taps and nothing to store.
  let index = select(group.z * groups.y + group.y, line / across, FOLDED);
  let live = index < p.blocks;
  let block = min(index, p.blocks - 1u);
  let m0 = select(group.x, line % across, FOLDED) * TM;
  let column0 = (block * WG + local) * TP;
  for (var j = 0u; j < TP; j++) {
    base[j] = columns[column0 + j].x;
  }
  // Rows past M read the last row again and are not stored.
  for (var i = 0u; i < TM; i++) {
    let m = min(m0 + i, p.M - 1u);
    row[i] = m * p.uStride;
    var start = 0.0;
    if (BIAS) {
      start = bias[m];
    }
    for (var j = 0u; j < TP; j++) {
      acc[i][j] = start;
    }
  }

  let span = spans[block];
  for (var t = span.x; t < select(span.x, span.y, live); t++) {
    let tap = taps[t];
    var a: array<f32, TM>;
    var b: array<f32, TP>;
    for (var i = 0u; i < TM; i++) {
      a[i] = u[row[i] + tap.y];
    }
    for (var j = 0u; j < TP; j++) {
      b[j] = x[base[j] + tap.x];
    }
    for (var i = 0u; i < TM; i++) {
      for (var j = 0u; j < TP; j++) {
        acc[i][j] = fma(a[i], b[j], acc[i][j]);
      }
    }
  }

  for (var j = 0u; j < TP; j++) {
    let place = columns[column0 + j].y;
    if (live && place != UNUSED) {
      for (var i = 0u; i < TM; i++) {
        if (m0 + i < p.M) {
          out[place + (m0 + i) * p.outStride] = activated(acc[i][j]);
        }
      }
    }
  }
}
