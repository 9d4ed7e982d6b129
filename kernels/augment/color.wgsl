// augment/color — brightness, saturation and contrast of each image, drawn at random, in one pass.
//
//   x [N, C, P] · u [N, 8] uniform in [0, 1) · mean [N] of each image  →  out [N, C, P]
//   brighter:   a = x + b,                    b = u₀ − ½
//   saturation: a ← s·a + (1 − s)·m,          s = 2·u₁,  m = the mean of a over the channels of its pixel
//   contrast:   out = c·a + (1 − c)·M,        c = u₂ + ½,  M = the mean of a over the image
//
// idea       the first two leave M as it is but for b, so that all three are one affine map:
//            out = c·s·x + c·(1 − s)·m(x) + (1 − c)·M(x) + b. Without b it is its own gradient (LINEAR): a mean spreads a
//            gradient as evenly as it gathers values.
// grid       a thread a pixel, which it reads in all its channels.
// cost       6·n flops;  reads n numbers twice (the second time from the cache), writes n.
// after      Zhao et al. 2020, DiffAugment: the ranges of its released code.
alias Stored = f32;
const LINEAR = false;
const WG = 64u;

struct Params { N: u32, C: u32, P: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<Stored>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i >= p.N * p.P) { return; }
  let image = i / p.P;
  let first = image * p.C * p.P + (i - image * p.P);
  let b = select(u[8u * image] - 0.5, 0.0, LINEAR);
  let s = 2.0 * u[8u * image + 1u];
  let c = u[8u * image + 2u] + 0.5;
  var m = 0.0;
  for (var channel = 0u; channel < p.C; channel++) { m += f32(x[first + channel * p.P]); }
  m /= f32(p.C);
  let same = c * (1.0 - s) * m + (1.0 - c) * mean[image] + b;
  for (var channel = 0u; channel < p.C; channel++) {
    let at = first + channel * p.P;
    out[at] = Stored(c * s * f32(x[at]) + same);
  }
}
