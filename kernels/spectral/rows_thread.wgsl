// spectral/rows_thread — Wv by parts: a thread owns a row and walks a part of the columns.
//
//   w [outer, rows, inner] · v [outer·inner]  →  part [P, rows]:  Σ over a part of (a, b) of w[a, row, b]·v[a·inner + b]
//
// grid       P·rows threads; part s takes C0 of outer from C0·⌊s/P1⌋ and C1 of inner from C1·(s mod P1).
// entries    `scalar`, and `quads` for inner and C1 multiples of 4.
// cost       2·rows·cols flops;  reads rows·cols floats.
const WG = 16u;

struct Params { outer: u32, rows: u32, inner: u32, C0: u32, C1: u32, P1: u32, parts: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> v: array<f32>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;
@group(0) @binding(0) var<storage, read> wQuads: array<vec4f>;
@group(0) @binding(1) var<storage, read> vQuads: array<vec4f>;

struct Span { row: u32, from0: u32, to0: u32, from1: u32, to1: u32 }

fn spanOf(t: u32) -> Span {
  let s = t / p.rows;
  let s0 = s / p.P1;
  let s1 = s - s0 * p.P1;
  return Span(
    t - s * p.rows,
    s0 * p.C0, min(p.outer, (s0 + 1u) * p.C0),
    s1 * p.C1, min(p.inner, (s1 + 1u) * p.C1),
  );
}

@compute @workgroup_size(WG)
fn scalar(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.parts * p.rows) { return; }
  let s = spanOf(t);
  var total = 0.0;
  for (var a = s.from0; a < s.to0; a++) {
    let row = (a * p.rows + s.row) * p.inner;
    var sum = 0.0;
    for (var b = s.from1; b < s.to1; b++) { sum += w[row + b] * v[a * p.inner + b]; }
    total += sum;
  }
  part[t] = total;
}

@compute @workgroup_size(WG)
fn quads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.parts * p.rows) { return; }
  let s = spanOf(t);
  let step = p.inner / 4u;
  var total = vec4f(0.0);
  for (var a = s.from0; a < s.to0; a++) {
    let row = (a * p.rows + s.row) * step;
    var sum = vec4f(0.0);
    for (var b = s.from1 / 4u; b < s.to1 / 4u; b++) {
      sum += wQuads[row + b] * vQuads[a * step + b];
    }
    total += sum;
  }
  part[t] = total.x + total.y + (total.z + total.w);
}
