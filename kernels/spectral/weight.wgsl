// spectral/weight — the normalised weight, and the two steps of its gradient.
//
//   `scale`:  w [n] · sigma [1]                        →  out [n] = w/sigma
//   `dotParts`:    dwn, w [n]                               →  part [parts]: Σ dwn·w over `each` neighbouring vec4s
//   `grad`:   dwn [outer, rows, inner] · sigma, product [1] · u [rows] · v [outer·inner]
//                                                      →  dw = (dwn − product/sigma·u·vᵀ)/sigma,  product = Σ dwn·w
//
// σ = uᵀWv moves with W along u·vᵀ while u and v are held still.
// entries    `gradQuads` is `grad` with a vec4 along inner a thread, for inner a multiple of 4.
// grid       grad, ROWS = 1: group.x walks inner, group.yz the outer·rows; ROWS = 0: the threads walk in a line.
// cost       n, 2·n and 3·n flops;  reads n or 2·n, writes n floats.
const ROWS = 1u;
const WG = 64u;

struct Params { n: u32, outer: u32, rows: u32, inner: u32, each: u32, parts: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> wQuads: array<vec4f>;
@group(0) @binding(1) var<storage, read> sigma: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

@group(0) @binding(0) var<storage, read> dwnQuads: array<vec4f>;
@group(0) @binding(1) var<storage, read> wOther: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;

@group(0) @binding(0) var<storage, read> dwn: array<f32>;
@group(0) @binding(2) var<storage, read> product: array<f32>;
@group(0) @binding(3) var<storage, read> u: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> dw: array<f32>;
@group(0) @binding(4) var<storage, read> vQuads: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> dwQuads: array<vec4f>;

// A weight of zeros has sigma 0 and stays 0.
fn inverse(s: f32) -> f32 { return select(1.0 / s, 0.0, s == 0.0); }

@compute @workgroup_size(WG)
fn scale(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) { out[i] = wQuads[i] * inverse(sigma[0]); }
}

@compute @workgroup_size(WG)
fn dotParts(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.parts) { return; }
  // Neighbouring threads read neighbouring vec4s. The lanes past n are masked: padding may hold anything.
  var sum = vec4f(0.0);
  for (var j = 0u; j < p.each; j++) {
    let q = j * p.parts + t;
    if (q < p.n / 4u) { sum += dwnQuads[q] * wOther[q]; }
  }
  if (t == p.parts - 1u && p.n % 4u != 0u) {
    let inside = vec4u(0u, 1u, 2u, 3u) < vec4u(p.n % 4u);
    let q = p.n / 4u;
    sum += select(vec4f(0.0), dwnQuads[q], inside) * select(vec4f(0.0), wOther[q], inside);
  }
  part[t] = sum.x + sum.y + (sum.z + sum.w);
}

struct Place { line: u32, column: u32, inside: bool }

fn placeOf(group: vec3u, groups: vec3u, local: u32, units: u32) -> Place {
  if (ROWS == 1u) {
    let line = group.z * groups.y + group.y;
    let column = group.x * WG + local;
    return Place(line, column, line < p.outer * p.rows && column < units);
  }
  let i = (group.y * groups.x + group.x) * WG + local;
  let line = i / units;
  return Place(line, i - line * units, line < p.outer * p.rows);
}

@compute @workgroup_size(WG)
fn grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local, p.inner);
  if (at.inside) {
    let a = at.line / p.rows;
    let inv = inverse(sigma[0]);
    let along = product[0] * inv * u[at.line - a * p.rows];
    let i = at.line * p.inner + at.column;
    dw[i] = (dwn[i] - along * v[a * p.inner + at.column]) * inv;
  }
}

@compute @workgroup_size(WG)
fn gradQuads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let units = p.inner / 4u;
  let at = placeOf(group, groups, local, units);
  if (at.inside) {
    let a = at.line / p.rows;
    let inv = inverse(sigma[0]);
    let along = product[0] * inv * u[at.line - a * p.rows];
    let i = at.line * units + at.column;
    dwQuads[i] = (dwnQuads[i] - along * vQuads[a * units + at.column]) * inv;
  }
}
