// spectral/finish — joins the parts of a product, normalises it, and takes σ; one workgroup.
//
//   `right`:  part [P, n] = Wᵀu by parts   →  v, vOut [n] = t/max(‖t‖, eps),  t = Σ parts
//   `left`:   part [P, n] = Wv by parts    →  u, uOut [n] = s/max(‖s‖, eps),  sigma = u·s,  s = Σ parts
//   `keep`:   part [P, n] = Wv by parts · u [n], v [m]  →  uOut = u, vOut = v, sigma = u·s
//
// u and v are the state of the iteration and change in place; uOut and vOut are what this step's gradient uses.
// cost       (P + 3)·n flops;  a weight has some thousand columns, so one workgroup is enough.
// needs      WG·4 bytes of workgroup memory.
// after      Miyato et al. 2018, algorithm 1; torch.nn.utils.spectral_norm.
const WG = 256u;

struct Params { n: u32, m: u32, parts: u32, eps: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> part: array<f32>;

@group(0) @binding(1) var<storage, read_write> state: array<f32>;
@group(0) @binding(2) var<storage, read_write> copy: array<f32>;
@group(0) @binding(3) var<storage, read_write> sigma: array<f32>;

@group(0) @binding(1) var<storage, read> uKept: array<f32>;
@group(0) @binding(2) var<storage, read> vKept: array<f32>;
@group(0) @binding(3) var<storage, read_write> uOut: array<f32>;
@group(0) @binding(4) var<storage, read_write> vOut: array<f32>;
@group(0) @binding(5) var<storage, read_write> sigmaKept: array<f32>;

var<workgroup> sums: array<f32, WG>;

fn sumOfAll(local: u32, value: f32) -> f32 {
  sums[local] = value;
  for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier(); // the last round is in `sums`
    if (local < reach) { sums[local] += sums[local + reach]; }
  }
  workgroupBarrier(); // the total is in sums[0]
  let total = sums[0];
  workgroupBarrier(); // everyone has read it; `sums` is free
  return total;
}

fn joined(i: u32) -> f32 {
  var sum = 0.0;
  for (var s = 0u; s < p.parts; s++) { sum += part[s * p.n + i]; }
  return sum;
}

// Writes the normalised vector and returns u·s, of this thread's elements.
fn normalise(local: u32) -> f32 {
  var squares = 0.0;
  for (var i = local; i < p.n; i += WG) {
    let s = joined(i);
    copy[i] = s;
    squares += s * s;
  }
  let norm = max(sqrt(sumOfAll(local, squares)), p.eps);
  var product = 0.0;
  for (var i = local; i < p.n; i += WG) {
    let s = copy[i];
    let unit = s / norm;
    copy[i] = unit;
    state[i] = unit;
    product += unit * s;
  }
  return product;
}

@compute @workgroup_size(WG)
fn right(@builtin(local_invocation_index) local: u32) {
  _ = normalise(local);
}

@compute @workgroup_size(WG)
fn left(@builtin(local_invocation_index) local: u32) {
  let product = sumOfAll(local, normalise(local));
  if (local == 0u) { sigma[0] = product; }
}

@compute @workgroup_size(WG)
fn keep(@builtin(local_invocation_index) local: u32) {
  var product = 0.0;
  for (var i = local; i < p.n; i += WG) {
    product += uKept[i] * joined(i);
    uOut[i] = uKept[i];
  }
  for (var i = local; i < p.m; i += WG) { vOut[i] = vKept[i]; }
  product = sumOfAll(local, product);
  if (local == 0u) { sigmaKept[0] = product; }
}
