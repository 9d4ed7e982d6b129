// peak/stream — how fast the device moves memory when it computes nothing: PER vec4s in, PER vec4s out a thread.
//
//   a [n]  →  out [n], the same words
//
// idea       neighbouring threads touch neighbouring vec4s, so that every line of memory is used whole; buffers larger
//            than the caches, so that every line comes from memory. A GPU hides a load behind other threads; a CPU
//            driver pays for each thread's start, and PER spreads that.
// cost       0 flops;  reads n, writes n words.
// needs      n % 4 = 0.
const WG = 256u;
const PER = 1u;

struct Params { n: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4u>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let first = (group.y * groups.x + group.x) * (WG * PER) + local;
  for (var k = 0u; k < PER; k++) {
    let i = first + k * WG;
    if (i < p.n / 4u) {
      out[i] = a[i];
    }
  }
}
