// pointwise/add_scaled — the sum that accumulates gradients and mixes losses; one vec4 a thread.
//
//   a [n] · b [n]  →  out [n] = a + scale·b
//
// cost       2·n flops;  reads 2·n, writes n floats.
const WG = 256u;

struct Params { n: u32, scale: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    out[i] = a[i] + p.scale * b[i];
  }
}
