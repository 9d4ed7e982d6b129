// spectral/rows_1_naive — Wv: a thread owns a row and walks all of it; all layers in one launch.
//
//   w [outer, rows, inner] · v [outer·inner]  →  part [1, rows]:  Σ over (a, b) of w[a, row, b]·v[a·inner + b]
//
// layers     as in spectral/columns.
// grid       rows threads a matrix: most of a machine idles where there are few.
// cost       2·rows·cols flops;  reads rows·cols floats.
const TABLE = false;
const WG = 16u;

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
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
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
  let row = (g - l.first) * WG + local;
  if (row >= l.rows) { return; }
  var total = 0.0;
  for (var a = 0u; a < l.outer; a++) {
    var sum = 0.0;
    for (var b = 0u; b < l.inner; b++) {
      sum += w[l.at + (a * l.rows + row) * l.inner + b] * v[l.v + a * l.inner + b];
    }
    total += sum;
  }
  part[l.partAt + row] = total;
}
