// peak/fma — how fast the device multiplies and adds when nothing else holds it back: chains in registers, no memory.
//
//   nothing  →  out [groups, WG], each the sum of a thread's chains
//
// idea       a thread carries CHAINS vec4s, each a chain of its own: an FMA waits for the one before it in its chain, so
//            4·CHAINS in flight hide its latency on a CPU, and the other threads of a core besides on a GPU. More chains
//            than registers would spill.
// check      x ← factor·x + term with factor = term = 1 counts its own steps, exactly up to 2²⁴; the factor is an
//            immediate, so a compiler cannot know that nothing is multiplied.
// cost       2·4·CHAINS·16·loops flops a thread;  writes a float.
const WG = 64u;
const CHAINS = 3u;

struct Params { loops: u32, factor: f32, term: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;

// 16 links of a chain.
fn links(start: vec4f) -> vec4f {
  let f = vec4f(p.factor);
  let t = vec4f(p.term);
  var x = fma(start, f, t);
  x = fma(x, f, t); x = fma(x, f, t); x = fma(x, f, t);
  x = fma(x, f, t); x = fma(x, f, t); x = fma(x, f, t); x = fma(x, f, t);
  x = fma(x, f, t); x = fma(x, f, t); x = fma(x, f, t); x = fma(x, f, t);
  x = fma(x, f, t); x = fma(x, f, t); x = fma(x, f, t); x = fma(x, f, t);
  return x;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  // The chains begin apart, or they would be one.
  let lanes = vec4f(0.0, 1.0, 2.0, 3.0) + f32(local);
  var a = lanes;
  var b = lanes + 4.0;
  var c = lanes + 8.0;
  var d = lanes + 12.0;
  for (var i = 0u; i < p.loops; i++) {
    a = links(a);
    if (CHAINS > 1u) { b = links(b); }
    if (CHAINS > 2u) { c = links(c); }
    if (CHAINS > 3u) { d = links(d); }
  }
  let s = a + b + c + d;
  out[(group.y * groups.x + group.x) * WG + local] = (s.x + s.y) + (s.z + s.w);
}
