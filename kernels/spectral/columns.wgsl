// spectral/columns — Wᵀu by parts: a thread owns a column (or four) and walks a part of the rows.
//
//   w [outer, rows, inner] · u [rows]  →  part [P, outer·inner]:  Σ over a part of the rows of w[a, row, b]·u[row]
//
// grid       P·cols threads; neighbouring threads read neighbouring weights.
// entries    `scalar`, and `quads` (four columns a thread) for inner a multiple of 4.
// cost       2·rows·cols flops;  reads rows·cols floats.
const WG = 64u;

struct Params { outer: u32, rows: u32, inner: u32, each: u32, parts: u32 } // each: rows of a part
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;
@group(0) @binding(0) var<storage, read> wQuads: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> partQuads: array<vec4f>;

@compute @workgroup_size(WG)
fn scalar(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  let cols = p.outer * p.inner;
  if (t >= p.parts * cols) { return; }
  let s = t / cols;
  let column = t - s * cols;
  let a = column / p.inner;
  let base = a * p.rows * p.inner + (column - a * p.inner);
  let last = min(p.rows, (s + 1u) * p.each);
  var sum = 0.0;
  for (var row = s * p.each; row < last; row++) {
    sum += w[base + row * p.inner] * u[row];
  }
  part[t] = sum;
}

@compute @workgroup_size(WG)
fn quads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  let step = p.inner / 4u;
  let cols = p.outer * step;
  if (t >= p.parts * cols) { return; }
  let s = t / cols;
  let column = t - s * cols;
  let a = column / step;
  let base = a * p.rows * step + (column - a * step);
  let last = min(p.rows, (s + 1u) * p.each);
  var sum = vec4f(0.0);
  for (var row = s * p.each; row < last; row++) {
    sum += wQuads[base + row * step] * u[row];
  }
  partQuads[t] = sum;
}
