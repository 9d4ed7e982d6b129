// spectral/weight — the normalised weights, and two of the three steps of their gradients; all layers in one launch.
//
//   `scale`:     w [n] · sigma  →  out [n] = w/sigma
//   `dotParts`:  dwn, w [n]     →  part [parts]: Σ dwn·w of a part of the vec4s      (spectral/finish:total joins them)
//   `grad`:      dwn [outer, rows, inner] · sigma, product · u [rows] · v [outer·inner]
//                               →  dw = (dwn − product/sigma·u·vᵀ)/sigma,  product = Σ dwn·w
//
// σ = uᵀWv moves with W along u·vᵀ while u and v are held still.
// layers     as in spectral/columns; sigma and product hold one number a matrix, this one's at `index` without a table.
// grid       `scale`: C0 neighbouring vec4s a thread, 16 for a CPU's lanes: with one, looking the matrix up in the table took
//            two thirds of the time (lavapipe).  `dotParts`: a part a thread, its C0 vec4s `parts` apart.  `grad`: C0
//            neighbours of a line of `inner` a thread, so that a long stretch costs one division.
// entries    `gradQuads` is `grad` in vec4s, for an inner that is a multiple of 4.
// cost       n, 2·n and 4·n flops;  reads n or 2·n, writes n floats.
alias Stored = f32;
const TABLE = false;
const WG = 64u;

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

@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> sigma: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<Stored>>;

@group(0) @binding(1) var<storage, read> dwnQuads: array<vec4f>;
@group(0) @binding(2) var<storage, read> wOther: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> part: array<f32>;

@group(0) @binding(1) var<storage, read> dwn: array<f32>;
@group(0) @binding(3) var<storage, read> product: array<f32>;
@group(0) @binding(4) var<storage, read> u: array<f32>;
@group(0) @binding(5) var<storage, read> v: array<f32>;
@group(0) @binding(6) var<storage, read_write> dw: array<f32>;
@group(0) @binding(5) var<storage, read> vQuads: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> dwQuads: array<vec4f>;

struct Place { l: Layer, index: u32, t: u32, inside: bool }

// The matrix of a workgroup, its number, and this thread's number among the matrix's.
fn placeOf(group: vec3u, groups: vec3u, local: u32) -> Place {
  let g = group.y * groups.x + group.x;
  if (!TABLE) {
    let l = Layer(p.at, p.u, p.v, p.outer, p.rows, p.inner, p.C0, p.C1, p.P1, p.parts, p.partAt, 0u);
    return Place(l, p.index, g * WG + local, g < p.groups);
  }
  var i = 0u;
  while (i + 1u < p.count && g >= layers[p.table + i + 1u].first) { i++; }
  let l = layers[p.table + i];
  return Place(l, i, (g - l.first) * WG + local, g < p.groups);
}

// A weight of zeros has sigma 0 and stays 0.
fn inverse(s: f32) -> f32 { return select(1.0 / s, 0.0, s == 0.0); }

@compute @workgroup_size(WG)
fn scale(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local);
  let n = at.l.outer * at.l.rows * at.l.inner;
  if (!at.inside) { return; }
  let inv = inverse(sigma[at.index]);
  let first = at.t * at.l.C0;
  for (var q = first; q < min(first + at.l.C0, (n + 3u) / 4u); q++) {
    let i = at.l.at / 4u + q;
    out[i] = vec4<Stored>(w[i] * inv);
  }
}

@compute @workgroup_size(WG)
fn dotParts(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local);
  let l = at.l;
  if (!at.inside || at.t >= l.parts) { return; }
  let n = l.outer * l.rows * l.inner;
  let base = l.at / 4u;
  // Neighbouring threads read neighbouring vec4s. The lanes past n are masked: padding may hold anything.
  var sum = vec4f(0.0);
  for (var j = 0u; j < l.C0; j++) {
    let q = j * l.parts + at.t;
    if (q < n / 4u) { sum += dwnQuads[base + q] * wOther[base + q]; }
  }
  if (at.t == l.parts - 1u && n % 4u != 0u) {
    let inside = vec4u(0u, 1u, 2u, 3u) < vec4u(n % 4u);
    let q = base + n / 4u;
    sum += select(vec4f(0.0), dwnQuads[q], inside) * select(vec4f(0.0), wOther[q], inside);
  }
  part[l.partAt + at.t] = sum.x + sum.y + (sum.z + sum.w);
}

struct Stretch { line: u32, first: u32, last: u32, inside: bool }

// The C0 units of a line of `units` that a thread owns.
fn stretchOf(at: Place, units: u32) -> Stretch {
  let chunks = (units + at.l.C0 - 1u) / at.l.C0;
  let line = at.t / chunks;
  let first = (at.t - line * chunks) * at.l.C0;
  let inside = at.inside && line < at.l.outer * at.l.rows;
  return Stretch(line, first, min(units, first + at.l.C0), inside);
}

@compute @workgroup_size(WG)
fn grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local);
  let l = at.l;
  let s = stretchOf(at, l.inner);
  if (!s.inside) { return; }
  let a = s.line / l.rows;
  let inv = inverse(sigma[at.index]);
  let along = product[at.index] * inv * u[l.u + s.line - a * l.rows];
  for (var b = s.first; b < s.last; b++) {
    let i = l.at + s.line * l.inner + b;
    dw[i] = (dwn[i] - along * v[l.v + a * l.inner + b]) * inv;
  }
}

@compute @workgroup_size(WG)
fn gradQuads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local);
  let l = at.l;
  let units = l.inner / 4u;
  let s = stretchOf(at, units);
  if (!s.inside) { return; }
  let a = s.line / l.rows;
  let inv = inverse(sigma[at.index]);
  let along = product[at.index] * inv * u[l.u + s.line - a * l.rows];
  for (var b = s.first; b < s.last; b++) {
    let i = l.at / 4u + s.line * units + b;
    dwQuads[i] = (dwnQuads[i] - along * vQuads[l.v / 4u + a * units + b]) * inv;
  }
}
