// norm/rows_join — what norm/dx takes off the gradient where every image has a gain of its own.
//
//   gain, dgain, dbias [N, C]  →  means [N, C, 2] = (Σₙ gain·dbias, Σₙ gain·dgain)/(N·L), the same for every image
//
// grid       a channel a thread: N terms, in the order of the images.
// cost       4·N·C flops.
const WG = 64u;

struct Params { N: u32, C: u32, share: f32 } // share = 1/(N·L)
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> gain: array<f32>;
@group(0) @binding(1) var<storage, read> dgain: array<f32>;
@group(0) @binding(2) var<storage, read> dbias: array<f32>;
@group(0) @binding(3) var<storage, read_write> means: array<vec2f>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c >= p.C) { return; }
  var total = vec2f(0.0);
  for (var i = c; i < p.N * p.C; i += p.C) { total += gain[i] * vec2f(dbias[i], dgain[i]); }
  for (var i = c; i < p.N * p.C; i += p.C) { means[i] = total * p.share; }
}
