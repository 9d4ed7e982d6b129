// conv/sum_parts — adds the partial sums of a split weight gradient in the order 0, 1, 2, …: same input, same bits.
//
//   parts [PARTS, n4] of vec4  →  out [n4] of vec4
//
// cost       4·n4·(PARTS - 1) flops; reads PARTS·n4 and writes n4 vec4s.
// needs      nothing. One vec4 a thread.

const WG = 64u;

@group(0) @binding(0) var<storage, read> parts: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;

struct Params {
  n4: u32,
  PARTS: u32,
}
var<immediate> p: Params;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < p.n4) {
    var sum = parts[i];
    for (var part = 1u; part < p.PARTS; part++) {
      sum += parts[part * p.n4 + i];
    }
    out[i] = sum;
  }
}
