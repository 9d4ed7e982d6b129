// spectral/rows_2_parts — Wv by parts: a thread owns a row and walks a part of the columns; all layers at once.
//
//   w [outer, rows, inner] · v [outer·inner]  →  part [P, rows]:  Σ over a part of (a, b) of w[a, row, b]·v[a, b]
//
// since 1_naive  a row is cut into parts, so that a few rows keep every core busy, and read in vec4s.
// layers     as in spectral/columns.
// grid       P·rows threads a matrix; part s takes C0 of outer from C0·⌊s/P1⌋ and C1 of inner from C1·(s mod P1).
// measured   lavapipe on two busy cores, 256×2048, the whole iteration: 769 µs, 1_naive 1,198.
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
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
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
  if (t >= l.parts * l.rows) { return; }
  let s = t / l.rows;
  let row = t - s * l.rows;
  let s0 = s / l.P1;
  let from0 = s0 * l.C0;
  let from1 = (s - s0 * l.P1) * l.C1;
  let to0 = min(l.outer, from0 + l.C0);
  let to1 = min(l.inner, from1 + l.C1);
  if (l.inner % 4u == 0u && l.C1 % 4u == 0u) {
    let step = l.inner / 4u;
    var total = vec4f(0.0);
    for (var a = from0; a < to0; a++) {
      let wRow = l.at / 4u + (a * l.rows + row) * step;
      let vRow = l.v / 4u + a * step;
      var sum = vec4f(0.0);
      for (var b = from1 / 4u; b < to1 / 4u; b++) { sum += w[wRow + b] * v[vRow + b]; }
      total += sum;
    }
    part[l.partAt + t] = total.x + total.y + (total.z + total.w);
    return;
  }
  var total = 0.0;
  for (var a = from0; a < to0; a++) {
    var sum = 0.0;
    for (var b = from1; b < to1; b++) {
      let i = l.at + (a * l.rows + row) * l.inner + b;
      let j = l.v + a * l.inner + b;
      sum += w[i / 4u][i % 4u] * v[j / 4u][j % 4u];
    }
    total += sum;
  }
  part[l.partAt + t] = total;
}
