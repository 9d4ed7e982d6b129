// spectral/rows_tree — Wv: a workgroup owns a row and joins its threads' sums in a tree.
//
//   w [outer, rows, inner] · v [outer·inner]  →  part [1, rows]
//
// since rows_thread  neighbouring threads read neighbouring weights; W of them (a power of two) go along inner, WG/W
//                    along outer.
// cost       2·rows·cols flops;  reads rows·cols floats.
// needs      WG·4 bytes of workgroup memory.
const WG = 256u;

struct Params { outer: u32, rows: u32, inner: u32, W: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> v: array<f32>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let r = group.y * groups.x + group.x;
  // A workgroup past the last row has an empty range and only keeps the barriers company.
  let outer = select(0u, p.outer, r < p.rows);
  var sum = 0.0;
  for (var a = local / p.W; a < outer; a += WG / p.W) {
    let row = (a * p.rows + r) * p.inner;
    for (var b = local % p.W; b < p.inner; b += p.W) {
      sum += w[row + b] * v[a * p.inner + b];
    }
  }
  sums[local] = sum;
  for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier(); // the last round is in `sums`
    if (local < reach) { sums[local] += sums[local + reach]; }
  }
  if (local == 0u && r < p.rows) { part[r] = sums[0]; }
}
