// peak/fma_f16 — peak/fma in half precision: how much faster the device multiplies and adds numbers of half the size.
//
//   nothing  →  out [groups, WG], each the sum of the ends of a thread's chains
//
// since fma  the chains are of f16, which hardware that has it takes two at a time.
// check      x ← factor·x + term with factor = -1 and term = 1 comes back to its beginning after two links: a float of
//            eleven bits could not count far. The factor is an immediate, so a compiler cannot know where it leads.
// cost       2·4·CHAINS·16·loops flops a thread;  writes a float.
// needs      shader-f16; CHAINS ≤ 4, WG ≤ 1024 for exact beginnings.
enable f16;

const WG = 256u;
const CHAINS = 4u;

struct Params { loops: u32, factor: f32, term: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;

// 16 links of a chain.
fn links(start: vec4h) -> vec4h {
  let f = vec4h(f16(p.factor));
  let t = vec4h(f16(p.term));
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
  let lanes = vec4h(0.0h, 1.0h, 2.0h, 3.0h) + f16(local);
  var a = lanes;
  var b = lanes + 4.0h;
  var c = lanes + 8.0h;
  var d = lanes + 12.0h;
  for (var i = 0u; i < p.loops; i++) {
    a = links(a);
    if (CHAINS > 1u) { b = links(b); }
    if (CHAINS > 2u) { c = links(c); }
    if (CHAINS > 3u) { d = links(d); }
  }
  let s = (vec4f(a) + vec4f(b)) + (vec4f(c) + vec4f(d));
  out[(group.y * groups.x + group.x) * WG + local] = (s.x + s.y) + (s.z + s.w);
}
