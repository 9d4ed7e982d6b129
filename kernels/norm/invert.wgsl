// norm/invert — the inverse deviation that evaluation normalises by; a channel a thread.
//
//   spread [C], a variance  →  invStd [C] = 1/√(spread + eps)
//
// cost       3·C flops.
const WG = 64u;

struct Params { C: u32, eps: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> spread: array<f32>;
@group(0) @binding(1) var<storage, read_write> invStd: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c < p.C) { invStd[c] = 1.0 / sqrt(spread[c] + p.eps); }
}
