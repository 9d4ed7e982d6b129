// reduce/hinge — the discriminator's hinge loss and its gradient; one workgroup, for a batch is short.
//
//   `loss`:  real [N], fake [M]         →  out [1] = Σ max(1 − real, 0)/N + Σ max(1 + fake, 0)/M
//   `grad`:  real, fake · dy [1]        →  dReal [N] = −dy/N where real < 1,  dFake [M] = dy/M where fake > −1; else 0
//
// cost       3·(N + M) flops;  reads N + M floats; the gradient writes as many.
// needs      WG·4 bytes of workgroup memory.
// NaN        a score that is no number makes a loss that is none.
// after      Lim & Ye 2017; Miyato et al. 2018.
const WG = 64u;

struct Params { N: u32, M: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> real: array<f32>;
@group(0) @binding(1) var<storage, read> fake: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dReal: array<f32>;
@group(0) @binding(4) var<storage, read_write> dFake: array<f32>;

var<workgroup> sums: array<vec2f, WG>;

// max drops NaN, which is told by the bits, since a compiler may take for granted that no float is NaN.
fn hinge(v: f32) -> f32 {
  return select(max(v, 0.0), v, (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u);
}

@compute @workgroup_size(WG)
fn loss(@builtin(local_invocation_index) local: u32) {
  var sum = vec2f(0.0);
  for (var i = local; i < p.N; i += WG) { sum.x += hinge(1.0 - real[i]); }
  for (var i = local; i < p.M; i += WG) { sum.y += hinge(1.0 + fake[i]); }
  sums[local] = sum;
  for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier(); // the last round is in `sums`
    if (local < reach) { sums[local] += sums[local + reach]; }
  }
  if (local == 0u) { out[0] = sums[0].x / f32(p.N) + sums[0].y / f32(p.M); }
}

@compute @workgroup_size(WG)
fn grad(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  if (i < p.N) { dReal[i] = select(-dy[0] / f32(p.N), 0.0, 1.0 - real[i] <= 0.0); }
  if (i < p.M) { dFake[i] = select(dy[0] / f32(p.M), 0.0, 1.0 + fake[i] <= 0.0); }
}
