// reduce/argmax — where the largest number of each row stands, the first of equal ones; a row a thread.
//
//   x [rows, cols]  →  out [rows] (u32)
//
// cost       rows·cols comparisons;  reads rows·cols floats.
const WG = 16u;

struct Params { rows: u32, cols: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let row = (group.y * groups.x + group.x) * WG + local;
  if (row >= p.rows) { return; }
  let start = row * p.cols;
  var best = x[start];
  var place = 0u;
  for (var j = 1u; j < p.cols; j++) {
    let v = x[start + j];
    if (v > best) {
      best = v;
      place = j;
    }
  }
  out[row] = place;
}
