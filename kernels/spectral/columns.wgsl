// spectral/columns — Wᵀu by parts: a thread owns four columns and walks a part of the rows; all layers in one launch.
//
//   w [outer, rows, inner] · u [rows]  →  part [P, outer·inner]:  Σ over a part of the rows of w[a, row, b]·u[row]
//
// layers     TABLE: a workgroup finds its matrix in `layers`, by the number of its first workgroup; else the matrix is
//            in the immediates, and the caller binds any tensor of a row's length as `layers`.
// grid       P·⌈cols/4⌉ threads a matrix; neighbouring threads read neighbouring weights; C0 rows are a part.
// cost       2·rows·cols flops;  reads rows·cols floats.
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
@group(0) @binding(2) var<storage, read> u: array<f32>;
@group(0) @binding(3) var<storage, read_write> part: array<f32>;

fn layerOf(g: u32) -> Layer {
  if (!TABLE) {
    return Layer(p.at, p.u, p.v, p.outer, p.rows, p.inner, p.C0, p.C1, p.P1, p.parts, p.partAt, 0u);
  }
  var i = p.table;
  while (i + 1u < p.table + p.count && g >= layers[i + 1u].first) { i++; }
  return layers[i];
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let g = group.y * groups.x + group.x;
  if (g >= p.groups) { return; }
  let l = layerOf(g);
  let t = (g - l.first) * WG + local;
  let cols = l.outer * l.inner;
  if (l.inner % 4u == 0u) {
    let step = l.inner / 4u;
    let quads = l.outer * step;
    if (t >= l.parts * quads) { return; }
    let s = t / quads;
    let column = t - s * quads;
    let a = column / step;
    let base = l.at / 4u + a * l.rows * step + (column - a * step);
    let last = min(l.rows, (s + 1u) * l.C0);
    var sum = vec4f(0.0);
    for (var row = s * l.C0; row < last; row++) { sum += w[base + row * step] * u[l.u + row]; }
    let to = l.partAt + s * cols + 4u * column;
    part[to] = sum.x;
    part[to + 1u] = sum.y;
    part[to + 2u] = sum.z;
    part[to + 3u] = sum.w;
    return;
  }
  if (t >= l.parts * cols) { return; }
  let s = t / cols;
  let column = t - s * cols;
  let a = column / l.inner;
  let base = l.at + a * l.rows * l.inner + (column - a * l.inner);
  let last = min(l.rows, (s + 1u) * l.C0);
  var sum = 0.0;
  for (var row = s * l.C0; row < last; row++) {
    let i = base + row * l.inner;
    sum += w[i / 4u][i % 4u] * u[l.u + row];
  }
  part[l.partAt + t] = sum;
}
