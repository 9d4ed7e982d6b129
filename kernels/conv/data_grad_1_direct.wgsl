// conv/data_grad_1_direct — one thread owns one input element and collects the outputs whose window covered it.
//
//   dy [N, K, OH, OW] · w [K, C, R, S] (+ bias [C])  →  dx [N, C, H, W]
//   dx[n,c,h,v] = bias[c] + Σ_k,r,s dy[n, k, (h + padH - r)/strideH, (v + padW - s)/strideW] · w[k,c,r,s]
//   over the r, s for which both quotients are whole: r ≡ h + padH (mod strideH). So r starts at that remainder and
//   steps by the stride, the quotient falls by one a step, and no tap is tested for divisibility. With bias it is the
//   forward transposed convolution.
//
// cost       2·N·K·OH·OW·C·R·S flops less what falls outside.
// needs      nothing.

alias Stored = f32;

const WG = 64u;
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

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < p.N * p.C * p.H * p.W) {
    let v = i % p.W;
    let h = i / p.W % p.H;
    let c = i / (p.W * p.H) % p.C;
    let n = i / (p.W * p.H * p.C);
    var sum = 0.0;
    if (BIAS) {
      sum = bias[c];
    }
    let r0 = (h + p.padH) % p.strideH;
    let s0 = (v + p.padW) % p.strideW;
    for (var k = 0u; k < p.K; k++) {
      var oh = (h + p.padH) / p.strideH; // falls below 0 by wrapping, and then is not < OH
      for (var r = r0; r < p.R; r += p.strideH) {
        var ow = (v + p.padW) / p.strideW;
        for (var s = s0; s < p.S; s += p.strideW) {
          if (oh < p.OH && ow < p.OW) {
            sum += f32(dy[((n * p.K + k) * p.OH + oh) * p.OW + ow])
              * f32(w[((k * p.C + c) * p.R + r) * p.S + s]);
          }
          ow -= 1u;
        }
        oh -= 1u;
      }
    }
    dx[i] = Stored(sum);
  }
}
