// norm/apply — y = (x − mean)·invStd·gamma + beta, gamma and beta by choice.
//
//   x [N, C, L] · mean, invStd, gamma, beta [C]  →  out [N, C, L]
//
// grid       ROWS = 1: group.x walks L, group.yz the N·C rows, so a row's five numbers are loaded once for a workgroup;
//            ROWS = 0 (a short L): the threads walk the elements in a line.
// entries    `scalar`, and `quads` (one vec4 along L a thread) for L a multiple of 4.
// cost       4·n flops;  reads n, writes n floats.
// needs      without SCALE or SHIFT the caller binds any [C] tensor in the place of gamma or beta; it is not read.
const SCALE = true;
const SHIFT = true;
const ROWS = 1u;
const WG = 64u;

struct Params { N: u32, C: u32, L: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> invStd: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(0) var<storage, read> xQuads: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> outQuads: array<vec4f>;

struct Place { row: u32, column: u32, inside: bool }

fn placeOf(group: vec3u, groups: vec3u, local: u32, units: u32) -> Place {
  if (ROWS == 1u) {
    let row = group.z * groups.y + group.y;
    let column = group.x * WG + local;
    return Place(row, column, row < p.N * p.C && column < units);
  }
  let i = (group.y * groups.x + group.x) * WG + local;
  let row = i / units;
  return Place(row, i - row * units, row < p.N * p.C);
}

// The mean is taken off first: at a mean of 100 the difference is exact, a folded shift would not be.
fn normalised(v: vec4f, c: u32) -> vec4f {
  var scale = invStd[c];
  if (SCALE) { scale *= gamma[c]; }
  var y = (v - mean[c]) * scale;
  if (SHIFT) { y += beta[c]; }
  return y;
}

@compute @workgroup_size(WG)
fn scalar(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local, p.L);
  if (at.inside) {
    let i = at.row * p.L + at.column;
    out[i] = normalised(vec4f(x[i]), at.row % p.C).x;
  }
}

@compute @workgroup_size(WG)
fn quads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local, p.L / 4u);
  if (at.inside) {
    let i = at.row * (p.L / 4u) + at.column;
    outQuads[i] = normalised(xQuads[i], at.row % p.C);
  }
}
