// conv/forward_1_direct — the definition: one thread owns one output and walks its window. Read this one first.
//
//   x [N, C, H, W] · w [K, C, R, S] (+ bias [K], activation)  →  y [N, K, OH, OW]
//   y[n,k,oh,ow] = act(bias[k] + Σ_c,r,s x[n, c, oh·strideH + r - padH, ow·strideW + s - padW] · w[k,c,r,s])
//
// cost       2·N·K·OH·OW·C·R·S flops; reads 2·C·R·S elements an output, so x and w are read again and again.
// needs      nothing.

alias Stored = f32;

const WG = 64u;
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
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < p.N * p.K * p.OH * p.OW) {
    let ow = i % p.OW;
    let oh = i / p.OW % p.OH;
    let k = i / (p.OW * p.OH) % p.K;
    let n = i / (p.OW * p.OH * p.K);
    var sum = 0.0;
    if (BIAS) {
      sum = bias[k];
    }
    for (var c = 0u; c < p.C; c++) {
      for (var r = 0u; r < p.R; r++) {
        let h = oh * p.strideH + r - p.padH; // wraps above the image, and then is not < H
        for (var s = 0u; s < p.S; s++) {
          let v = ow * p.strideW + s - p.padW;
          if (h < p.H && v < p.W) {
            sum += f32(x[((n * p.C + c) * p.H + h) * p.W + v])
              * f32(w[((k * p.C + c) * p.R + r) * p.S + s]);
          }
        }
      }
    }
    y[i] = Stored(activated(sum));
  }
}
