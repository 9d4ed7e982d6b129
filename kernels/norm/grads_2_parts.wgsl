// norm/grads_2_parts — the two sums of a channel that every gradient of batch norm needs; a part a thread.
//
//   x, dy [N, C, L] · mean, invStd, gamma, beta [C]  →  sums [parts, C, 2]:  Σ g  and  Σ g·(x − mean)·invStd,
//   g = dy past the activation
//
// since 1_naive  a channel is cut into parts, so that a few channels keep every core busy, and read in vec4s.
// grid       parts·C threads; part p takes C0 images from C0·⌊p/P1⌋ and C1 positions from C1·(p mod P1).
// entries    `scalar`: any L.  `quads`: L and C1 multiples of 4.
// measured   lavapipe on two busy cores, x 16×64×256: 333 µs with the join, 1_naive 577; 16×16×4096: 954 and 1,917.
// cost       4·n flops;  reads 2·n numbers.
alias Stored = f32;

// The activation that comes after: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;

const ACT = NONE;
const SCALE = true;
const SHIFT = true;
const WG = 16u;

struct Params { N: u32, C: u32, L: u32, C0: u32, C1: u32, P1: u32, parts: u32, slope: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> invStd: array<f32>;
@group(0) @binding(4) var<storage, read> gamma: array<f32>;
@group(0) @binding(5) var<storage, read> beta: array<f32>;
@group(0) @binding(6) var<storage, read_write> sums: array<vec2f>;
@group(0) @binding(0) var<storage, read> xQuads: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> dyQuads: array<vec4<Stored>>;

// The gradient that the activation lets through; which branch it took is told by y, made again as norm/apply made it.
fn passed(g: vec4f, v: vec4f, c: u32) -> vec4f {
  if (ACT == NONE) { return g; }
  var scale = invStd[c];
  if (SCALE) { scale *= gamma[c]; }
  var y = (v - mean[c]) * scale;
  if (SHIFT) { y += beta[c]; }
  if (ACT == RELU) { return select(g, vec4f(0.0), y <= vec4f(0.0)); }
  return select(p.slope * g, g, y > vec4f(0.0));
}

struct Span { c: u32, from0: u32, to0: u32, from1: u32, to1: u32 }

fn spanOf(t: u32) -> Span {
  let part = t / p.C;
  let part0 = part / p.P1;
  let part1 = part - part0 * p.P1;
  return Span(
    t - part * p.C,
    part0 * p.C0, min(p.N, (part0 + 1u) * p.C0),
    part1 * p.C1, min(p.L, (part1 + 1u) * p.C1),
  );
}

@compute @workgroup_size(WG)
fn scalar(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.parts * p.C) { return; }
  let s = spanOf(t);
  let average = mean[s.c];
  var total = vec2f(0.0);
  for (var n = s.from0; n < s.to0; n++) {
    let row = (n * p.C + s.c) * p.L;
    var sum = vec2f(0.0);
    for (var i = s.from1; i < s.to1; i++) {
      let v = f32(x[row + i]);
      let g = passed(vec4f(f32(dy[row + i])), vec4f(v), s.c).x;
      sum += vec2f(g, g * (v - average));
    }
    total += sum;
  }
  sums[t] = total * vec2f(1.0, invStd[s.c]);
}

@compute @workgroup_size(WG)
fn quads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.parts * p.C) { return; }
  let s = spanOf(t);
  let average = mean[s.c];
  var total = vec4f(0.0);
  var totalHat = vec4f(0.0);
  for (var n = s.from0; n < s.to0; n++) {
    let row = (n * p.C + s.c) * (p.L / 4u);
    var sum = vec4f(0.0);
    var sumHat = vec4f(0.0);
    for (var i = s.from1 / 4u; i < s.to1 / 4u; i++) {
      let v = vec4f(xQuads[row + i]);
      let g = passed(vec4f(dyQuads[row + i]), v, s.c);
      sum += g;
      sumHat += g * (v - average);
    }
    total += sum;
    totalHat += sumHat;
  }
  let one = vec4f(1.0);
  sums[t] = vec2f(dot(total, one), dot(totalHat, one) * invStd[s.c]);
}
