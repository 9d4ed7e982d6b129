// norm/grads_join — adds up the parts of a channel, a channel a thread: the gradients of gamma and beta.
//
//   sums [parts, C, 2]  →  dbeta [C] = Σ g,  dgamma [C] = Σ g·x̂,  means [C, 2] = (dbeta, dgamma)/(N·L) for norm/dx
//
// cost       2·parts·C flops.
const WG = 64u;

struct Params { C: u32, parts: u32, share: f32 } // share = 1/(N·L)
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> sums: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> dbeta: array<f32>;
@group(0) @binding(3) var<storage, read_write> means: array<vec2f>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c >= p.C) { return; }
  var total = vec2f(0.0);
  for (var part = 0u; part < p.parts; part++) { total += sums[part * p.C + c]; }
  dbeta[c] = total.x;
  dgamma[c] = total.y;
  means[c] = total * p.share;
}
