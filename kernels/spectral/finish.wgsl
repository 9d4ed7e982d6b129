// spectral/finish — joins the parts of a product, normalises it, and takes σ; a workgroup a matrix, all in one launch.
//
//   `right`:  part [P, n] = Wᵀu by parts   →  v, vOut [n] = t/max(‖t‖, eps),  t = Σ parts,  n = outer·inner
//   `left`:   part [P, n] = Wv by parts    →  u, uOut [n] = s/max(‖s‖, eps),  sigma = u·s,  s = Σ parts,  n = rows
//   `keep`:   part [P, n] = Wv by parts · u [n], v [m]  →  uOut = u, vOut = v, sigma = u·s
//   `total`:  part [P]  →  sigma = Σ parts
//
// u and v are the state of the iteration and change in place; uOut and vOut are what this step's gradient uses.
// layers     as in spectral/columns; sigma holds one number a matrix, this one's at `index` without a table.
// cost       (P + 3)·n flops;  a weight has some thousand columns, so one workgroup is enough.
// needs      WG·4 bytes of workgroup memory.
// after      Miyato et al. 2018, algorithm 1; torch.nn.utils.spectral_norm.
const TABLE = false;
const WG = 256u;

struct Params {
  at: u32, u: u32, v: u32, outer: u32, rows: u32, inner: u32,
  C0: u32, C1: u32, P1: u32, parts: u32, partAt: u32,
  groups: u32, count: u32, table: u32, index: u32, eps: f32,
}
var<immediate> p: Params;

struct Layer {
  at: u32, u: u32, v: u32, outer: u32, rows: u32, inner: u32,
  C0: u32, C1: u32, P1: u32, parts: u32, partAt: u32, first: u32,
}

@group(0) @binding(0) var<storage, read> layers: array<Layer>;
@group(0) @binding(1) var<storage, read> part: array<f32>;

@group(0) @binding(2) var<storage, read_write> state: array<f32>;
@group(0) @binding(3) var<storage, read_write> copy: array<f32>;
@group(0) @binding(4) var<storage, read_write> sigma: array<f32>;

@group(0) @binding(2) var<storage, read> uKept: array<f32>;
@group(0) @binding(3) var<storage, read> vKept: array<f32>;
@group(0) @binding(4) var<storage, read_write> uOut: array<f32>;
@group(0) @binding(5) var<storage, read_write> vOut: array<f32>;
@group(0) @binding(6) var<storage, read_write> sigmaKept: array<f32>;

@group(0) @binding(2) var<storage, read_write> sum: array<f32>;

fn layerOf(g: u32) -> Layer {
  if (TABLE) { return layers[p.table + g]; }
  return Layer(p.at, p.u, p.v, p.outer, p.rows, p.inner, p.C0, p.C1, p.P1, p.parts, p.partAt, 0u);
}

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

fn joined(l: Layer, n: u32, i: u32) -> f32 {
  var sum = 0.0;
  for (var s = 0u; s < l.parts; s++) { sum += part[l.partAt + s * n + i]; }
  return sum;
}

// Writes the normalised vector of n elements from `to` on and returns u·s, of this thread's elements.
fn normalise(local: u32, l: Layer, n: u32, to: u32) -> f32 {
  var squares = 0.0;
  for (var i = local; i < n; i += WG) {
    let s = joined(l, n, i);
    copy[to + i] = s;
    squares += s * s;
  }
  let norm = max(sqrt(sumOfAll(local, squares)), p.eps);
  var product = 0.0;
  for (var i = local; i < n; i += WG) {
    let s = copy[to + i];
    let unit = s / norm;
    copy[to + i] = unit;
    state[to + i] = unit;
    product += unit * s;
  }
  return product;
}

@compute @workgroup_size(WG)
fn right(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let l = layerOf(group.x);
  _ = normalise(local, l, l.outer * l.inner, l.v);
}

@compute @workgroup_size(WG)
fn left(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let l = layerOf(group.x);
  let product = sumOfAll(local, normalise(local, l, l.rows, l.u));
  if (local == 0u) { sigma[p.index + group.x] = product; }
}

@compute @workgroup_size(WG)
fn keep(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let l = layerOf(group.x);
  var product = 0.0;
  for (var i = local; i < l.rows; i += WG) {
    product += uKept[l.u + i] * joined(l, l.rows, i);
    uOut[l.u + i] = uKept[l.u + i];
  }
  for (var i = local; i < l.outer * l.inner; i += WG) { vOut[l.v + i] = vKept[l.v + i]; }
  product = sumOfAll(local, product);
  if (local == 0u) { sigmaKept[p.index + group.x] = product; }
}

@compute @workgroup_size(WG)
fn total(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let l = layerOf(group.x);
  var mine = 0.0;
  for (var i = local; i < l.parts; i += WG) { mine += part[l.partAt + i]; }
  mine = sumOfAll(local, mine);
  if (local == 0u) { sum[p.index + group.x] = mine; }
}
