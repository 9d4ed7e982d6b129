// spectral/rows_3_tree — Wv: a workgroup owns a row and joins its threads' sums in a tree; all layers in one launch.
//
//   w [outer, rows, inner] · v [outer·inner]  →  part [1, rows]
//
// since 2_parts  neighbouring threads read neighbouring weights; C1 of them (a power of two) go along inner, WG/C1
//                along outer; their sums meet in workgroup memory.
// layers     as in spectral/columns.
// measured   lavapipe on two busy cores, 256×2048, the whole iteration: 9.7 ms: barriers.
// cost       2·rows·cols flops;  reads rows·cols floats.
// needs      WG·4 bytes of workgroup memory.
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

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let g = group.y * groups.x + group.x;
  let l = layerOf(g);
  let r = g - l.first;
  // A workgroup past the last row has an empty range and only keeps the barriers company.
  let outer = select(0u, l.outer, g < p.groups);
  var sum = 0.0;
  for (var a = local / l.C1; a < outer; a += WG / l.C1) {
    let row = l.at + (a * l.rows + r) * l.inner;
    for (var b = local % l.C1; b < l.inner; b += l.C1) {
      sum += w[row + b] * v[l.v + a * l.inner + b];
    }
  }
  sums[local] = sum;
  for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier(); // the last round is in `sums`
    if (local < reach) { sums[local] += sums[local + reach]; }
  }
  if (local == 0u && g < p.groups) { part[l.partAt + r] = sums[0]; }
}
