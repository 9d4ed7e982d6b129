// random/philox — Philox 4x32-10: four words a thread out of a counter and a key, no state but {seed, counter}.
//
//   state {seedLo, seedHi, counterLo, counterHi} · stream  →  out [n]
//   counter = (index/4, stream, counterLo, counterHi),  key = (seedLo, seedHi)
//
// entries    `bits`: the words.  `uniforms`: low + (high − low)·(word >> 8)·2⁻²⁴, and low where that rounds to high.
//            `normals`: mean + std·z (Box–Muller).  `integers`: the high word of word·bound.
//            `dropouts`: x [n] → kept [n] = b·x where word ≥ bound, else 0: dropped with probability bound·2⁻³².
//            `advance`: the counter goes one on.
// cost       about 150 integer operations for four numbers;  writes n words.
// after      Salmon et al. 2011; the integers are those of src/util/philox.ts.  Box and Muller 1958.
const M0 = 0xd2511f53u;
const M1 = 0xcd9e8d57u;
const WEYL0 = 0x9e3779b9u;
const WEYL1 = 0xbb67ae85u;
const STEP = 5.9604644775390625e-8f; // 2⁻²⁴
const WG = 64u;

struct Params { n: u32, stream: u32, bound: u32, a: f32, b: f32 } // uniform: a = low, b = high; normal: a = mean, b = std; dropout: b = scale
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> state: vec4u;
@group(0) @binding(1) var<storage, read_write> outWords: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;

@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> kept: array<vec4f>;

@group(0) @binding(0) var<storage, read_write> next: vec4u;

struct Wide { low: u32, high: u32 }

// The 64-bit product, by 16-bit halves.
fn multiply(a: u32, b: u32) -> Wide {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let middle = ah * bl + ((al * bl) >> 16u);
  let cross = al * bh + (middle & 0xffffu);
  return Wide(a * b, ah * bh + (middle >> 16u) + (cross >> 16u));
}

fn philox(block: u32) -> vec4u {
  var c = vec4u(block, p.stream, state.z, state.w);
  var k = state.xy;
  for (var round = 0u; round < 10u; round++) {
    let x = multiply(M0, c.x);
    let y = multiply(M1, c.z);
    c = vec4u(y.high ^ c.y ^ k.x, y.low, x.high ^ c.w ^ k.y, x.low);
    k += vec2u(WEYL0, WEYL1);
  }
  return c;
}

// cos and sin of 2π·turn, turn in [0, 1): the nearest quarter turn is taken off exactly, the rest (|θ| ≤ π/4) is a
// polynomial. WGSL's own sin and cos may be off by 2⁻¹¹.
fn circle(turn: f32) -> vec2f {
  let quarter = round(turn * 4.0);
  let t = (turn * 4.0 - quarter) * 1.5707963267948966;
  let z = t * t;
  let s = t * (1.0 + z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z * (1.0 / 362880.0)))));
  let c = 1.0 + z * (-0.5 + z * (1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40320.0))));
  let q = u32(quarter) & 3u;
  let even = select(vec2f(-s, c), vec2f(c, s), (q & 1u) == 0u);
  return select(even, -even, q >= 2u);
}

// Two independent normals: u1 in (0, 1] keeps the logarithm finite.
fn pair(words: vec2u) -> vec2f {
  let u1 = f32((words.x >> 8u) + 1u) * STEP;
  let u2 = f32(words.y >> 8u) * STEP;
  return sqrt(max(0.0, -2.0 * log(u1))) * circle(u2);
}

fn blockOf(group: vec3u, groups: vec3u, local: u32) -> u32 {
  return (group.y * groups.x + group.x) * WG + local;
}

@compute @workgroup_size(WG)
fn bits(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = blockOf(group, groups, local);
  if (i < (p.n + 3u) / 4u) { outWords[i] = philox(i); }
}

@compute @workgroup_size(WG)
fn uniforms(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = blockOf(group, groups, local);
  if (i < (p.n + 3u) / 4u) {
    let v = p.a + (p.b - p.a) * (vec4f(philox(i) >> vec4u(8u)) * STEP);
    out[i] = select(v, vec4f(p.a), v >= vec4f(p.b));
  }
}

@compute @workgroup_size(WG)
fn normals(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = blockOf(group, groups, local);
  if (i < (p.n + 3u) / 4u) {
    let words = philox(i);
    out[i] = p.a + p.b * vec4f(pair(words.xy), pair(words.zw));
  }
}

@compute @workgroup_size(WG)
fn integers(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = blockOf(group, groups, local);
  if (i < (p.n + 3u) / 4u) {
    let words = philox(i);
    outWords[i] = vec4u(
      multiply(words.x, p.bound).high,
      multiply(words.y, p.bound).high,
      multiply(words.z, p.bound).high,
      multiply(words.w, p.bound).high,
    );
  }
}

@compute @workgroup_size(WG)
fn dropouts(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = blockOf(group, groups, local);
  if (i < (p.n + 3u) / 4u) { kept[i] = select(vec4f(0.0), p.b * x[i], philox(i) >= vec4u(p.bound)); }
}

@compute @workgroup_size(1)
fn advance() {
  let low = next.z + 1u;
  next = vec4u(next.xy, low, next.w + select(0u, 1u, low == 0u));
}
