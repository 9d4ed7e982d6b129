// reduce/thread — one thread owns one result and walks its terms in order: no barrier, no shared memory.
//
//   x [O, R0, K, R1, I]  →  out [parts, O·K·I] = scale · Σ (or max) over a part of R0 × R1
//
// grid       parts·O·K·I threads; part p takes C0 rows of R0 from C0·⌊p/P1⌋ and C1 of R1 from C1·(p mod P1).
// entries    `scalar`: anything.  `quadsAlongR`: I = 1, R1 and C1 multiples of 4; a vec4 of terms a load.
//            `quadsAlongI`: I a multiple of 4; a thread owns four neighbouring results.
// order      every R0 row is summed by itself before it joins the total, which keeps long sums short.
// max        is NaN where a term is, and -∞ where all are: it starts from the first term of the part.
// cost       n flops;  reads n numbers once, writes floats.
alias Stored = f32;
const SUM = 0u;
const MAX = 1u;

const OP = SUM;
const WG = 64u;

struct Params {
  K: u32, I: u32, R0: u32, R1: u32,
  C0: u32, C1: u32, P1: u32, parts: u32,
  outputs: u32, scale: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(0) var<storage, read> xQuads: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read_write> outQuads: array<vec4f>;

// y, or v where v is NaN, which max drops: told by the bits, since a compiler may take for granted that no float is NaN.
fn keepNaN(v: vec4f, y: vec4f) -> vec4f {
  return select(y, v, (bitcast<vec4u>(v) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

fn join(l: vec4f, r: vec4f) -> vec4f {
  if (OP == MAX) { return keepNaN(l, keepNaN(r, max(l, r))); }
  return l + r;
}

fn across(v: vec4f) -> f32 {
  let pair = join(v, v.zwxy);
  return join(pair, pair.yxwz).x;
}

struct Span { base: u32, from0: u32, to0: u32, from1: u32, to1: u32 }

// The terms of a part of result `o`; `base` is where the result's first term would be.
fn spanOf(o: u32, part: u32) -> Span {
  let ok = o / p.I;
  let i = o - ok * p.I;
  let oo = ok / p.K;
  let k = ok - oo * p.K;
  let part0 = part / p.P1;
  let part1 = part - part0 * p.P1;
  return Span(
    (oo * p.R0 * p.K + k) * p.R1 * p.I + i,
    part0 * p.C0, min(p.R0, (part0 + 1u) * p.C0),
    part1 * p.C1, min(p.R1, (part1 + 1u) * p.C1),
  );
}

@compute @workgroup_size(WG)
fn scalar(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.outputs * p.parts) { return; }
  let part = t / p.outputs;
  let span = spanOf(t - part * p.outputs, part);
  var start = vec4f(0.0);
  if (OP == MAX) { start = vec4f(f32(x[span.base + (span.from0 * p.K * p.R1 + span.from1) * p.I])); }
  var total = start;
  for (var r0 = span.from0; r0 < span.to0; r0++) {
    let row = span.base + r0 * p.K * p.R1 * p.I;
    var sum = start;
    for (var r1 = span.from1; r1 < span.to1; r1++) {
      sum = join(sum, vec4f(f32(x[row + r1 * p.I])));
    }
    total = join(total, sum);
  }
  out[t] = total.x * p.scale;
}

@compute @workgroup_size(WG)
fn quadsAlongR(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.outputs * p.parts) { return; }
  let part = t / p.outputs;
  let span = spanOf(t - part * p.outputs, part);
  var start = vec4f(0.0);
  if (OP == MAX) { start = vec4f(xQuads[(span.base + span.from0 * p.K * p.R1 + span.from1) / 4u]); }
  var total = start;
  for (var r0 = span.from0; r0 < span.to0; r0++) {
    let row = (span.base + r0 * p.K * p.R1) / 4u;
    var sum = start;
    for (var r1 = span.from1 / 4u; r1 < span.to1 / 4u; r1++) {
      sum = join(sum, vec4f(xQuads[row + r1]));
    }
    total = join(total, sum);
  }
  out[t] = across(total) * p.scale;
}

@compute @workgroup_size(WG)
fn quadsAlongI(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  let quads = p.outputs / 4u;
  if (t >= quads * p.parts) { return; }
  let part = t / quads;
  let span = spanOf((t - part * quads) * 4u, part);
  let step = p.I / 4u;
  var start = vec4f(0.0);
  if (OP == MAX) {
    start = vec4f(xQuads[span.base / 4u + (span.from0 * p.K * p.R1 + span.from1) * step]);
  }
  var total = start;
  for (var r0 = span.from0; r0 < span.to0; r0++) {
    let row = span.base / 4u + r0 * p.K * p.R1 * step;
    var sum = start;
    for (var r1 = span.from1; r1 < span.to1; r1++) {
      sum = join(sum, vec4f(xQuads[row + r1 * step]));
    }
    total = join(total, sum);
  }
  outQuads[t] = total * p.scale;
}
