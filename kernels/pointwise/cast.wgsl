// pointwise/cast — from f16 to f32 and back; one vec4 a thread.
//
//   `widen`:   halves f16 [n]  →  floats f32 [n], exactly
//   `narrow`:  wide f32 [n]    →  narrowed f16 [n], rounded
//
// cost       0 flops;  reads and writes 6·n bytes.
// needs      shader-f16; the lanes past n in the last vec4 are padding of the binding.
// exact      WGSL leaves open what becomes of a number past the largest f16, 65504; Vulkan drivers round to nearest and make
//            it infinite, which loss scaling waits for, and a test looks. NaN stays NaN.
enable f16;

const WG = 256u;

struct Params { n: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> halves: array<vec4h>;
@group(0) @binding(1) var<storage, read_write> floats: array<vec4f>;

@group(0) @binding(0) var<storage, read> wide: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> narrowed: array<vec4h>;

@compute @workgroup_size(WG)
fn widen(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) { floats[i] = vec4f(halves[i]); }
}

@compute @workgroup_size(WG)
fn narrow(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) { narrowed[i] = vec4h(wide[i]); }
}
