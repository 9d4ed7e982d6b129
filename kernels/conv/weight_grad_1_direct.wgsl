// conv/weight_grad_1_direct — one thread owns one weight and adds over the batch and every output position.
//
//   x [N, C, H, W] · dy [N, K, OH, OW]  →  dw [K, C, R, S]
//   dw[k,c,r,s] = Σ_n,oh,ow dy[n,k,oh,ow] · x[n, c, oh·strideH + r - padH, ow·strideW + s - padW]
//
// cost       2·N·K·OH·OW·C·R·S flops; only K·C·R·S threads, each with N·OH·OW steps.
// needs      nothing.

alias Stored = f32;

const WG = 64u;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read_write> dw: array<f32>;

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
  if (i < p.K * p.C * p.R * p.S) {
    let s = i % p.S;
    let r = i / p.S % p.R;
    let c = i / (p.S * p.R) % p.C;
    let k = i / (p.S * p.R * p.C);
    var sum = 0.0;
    for (var n = 0u; n < p.N; n++) {
      for (var oh = 0u; oh < p.OH; oh++) {
        let h = oh * p.strideH + r - p.padH; // wraps above the image, and then is not < H
        for (var ow = 0u; ow < p.OW; ow++) {
          let v = ow * p.strideW + s - p.padW;
          if (h < p.H && v < p.W) {
            sum += f32(x[((n * p.C + c) * p.H + h) * p.W + v])
              * f32(dy[((n * p.K + k) * p.OH + oh) * p.OW + ow]);
          }
        }
      }
    }
    dw[i] = sum;
  }
}
