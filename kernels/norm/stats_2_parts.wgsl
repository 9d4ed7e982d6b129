// norm/stats_2_parts — mean and squared deviations of one part of a channel, a part a thread, two looks at each part.
//
//   x [N, C, L]  →  partMean, partM2 [parts, C]      (M2 = Σ (x − the part's own mean)²)
//
// since 1_naive  a channel is cut into parts, so that a few channels keep every core busy, and read in vec4s.
// grid       parts·C threads; part p takes C0 images from C0·⌊p/P1⌋ and C1 positions from C1·(p mod P1).
// entries    `scalar`: any L.  `quads`: L and C1 multiples of 4.
// exact      deviations are taken from the part's own mean, so a mean of 100 costs no digits; the second look finds the
//            part in the cache.
// measured   lavapipe on two busy cores, x 16×64×256: 351 µs with the join, 1_naive 816; 16×16×4096: 1,016 and 3,067.
// cost       4·n flops;  reads n numbers from memory.
// after      Chan, Golub, LeVeque 1979 (parts that are joined in norm/stats_join).
alias Stored = f32;
const WG = 16u;

struct Params { N: u32, C: u32, L: u32, C0: u32, C1: u32, P1: u32, parts: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> partMean: array<f32>;
@group(0) @binding(2) var<storage, read_write> partM2: array<f32>;
@group(0) @binding(0) var<storage, read> xQuads: array<vec4<Stored>>;

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
  var total = 0.0;
  for (var n = s.from0; n < s.to0; n++) {
    let row = (n * p.C + s.c) * p.L;
    var sum = 0.0;
    for (var i = s.from1; i < s.to1; i++) { sum += f32(x[row + i]); }
    total += sum;
  }
  let mean = total / f32((s.to0 - s.from0) * (s.to1 - s.from1));
  var m2 = 0.0;
  for (var n = s.from0; n < s.to0; n++) {
    let row = (n * p.C + s.c) * p.L;
    var sum = 0.0;
    for (var i = s.from1; i < s.to1; i++) {
      let d = f32(x[row + i]) - mean;
      sum += d * d;
    }
    m2 += sum;
  }
  partMean[t] = mean;
  partM2[t] = m2;
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
  var total = vec4f(0.0);
  for (var n = s.from0; n < s.to0; n++) {
    let row = (n * p.C + s.c) * (p.L / 4u);
    var sum = vec4f(0.0);
    for (var i = s.from1 / 4u; i < s.to1 / 4u; i++) { sum += vec4f(xQuads[row + i]); }
    total += sum;
  }
  let halves = total.xy + total.zw;
  let mean = (halves.x + halves.y) / f32((s.to0 - s.from0) * (s.to1 - s.from1));
  var m2 = vec4f(0.0);
  for (var n = s.from0; n < s.to0; n++) {
    let row = (n * p.C + s.c) * (p.L / 4u);
    var sum = vec4f(0.0);
    for (var i = s.from1 / 4u; i < s.to1 / 4u; i++) {
      let d = vec4f(xQuads[row + i]) - mean;
      sum += d * d;
    }
    m2 += sum;
  }
  partMean[t] = mean;
  partM2[t] = m2.x + m2.y + (m2.z + m2.w);
}
