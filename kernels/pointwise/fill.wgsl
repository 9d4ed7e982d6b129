// pointwise/fill — one value everywhere, one vec4 a thread.
//
//   value  →  out [n]
//
// cost       writes n numbers.
alias Stored = f32;
const WG = 256u;

struct Params { n: u32, value: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> out: array<vec4<Stored>>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    out[i] = vec4<Stored>(Stored(p.value));
  }
}
