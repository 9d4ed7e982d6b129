// norm/apply — y = act((x − mean)·invStd·gamma + beta); gamma, beta and the activation by choice.
//
//   x [N, C, L] · mean, invStd, gamma, beta [C]  →  out [N, C, L]
//
// grid       ROWS = 1: group.x walks L, group.yz the N·C rows, so a row's five numbers are loaded once for a workgroup;
//            ROWS = 0 (a short L): the threads walk the elements in a line.
// entries    `scalar`, and `quads` (one vec4 along L a thread) for L a multiple of 4.
// cost       4·n flops;  reads n, writes n numbers.
// needs      without SCALE or SHIFT the caller binds any [C] tensor in the place of gamma or beta; it is not read.
alias Stored = f32;

// The activation that comes after: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;

const ACT = NONE;
const SCALE = true;
const SHIFT = true;
const ROWS = 1u;
const WG = 64u;

struct Params { N: u32, C: u32, L: u32, slope: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> invStd: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Stored>;
@group(0) @binding(0) var<storage, read> xQuads: array<vec4<Stored>>;
@group(0) @binding(5) var<storage, read_write> outQuads: array<vec4<Stored>>;

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

// max drops NaN, which is told by the bits, since a compiler may take for granted that no float is NaN.
fn activated(y: vec4f) -> vec4f {
  if (ACT == RELU) {
    let isNaN = (bitcast<vec4u>(y) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u);
    return select(max(y, vec4f(0.0)), y, isNaN);
  }
  if (ACT == LEAKY_RELU) { return select(p.slope * y, y, y > vec4f(0.0)); }
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
    out[i] = Stored(activated(normalised(vec4f(f32(x[i])), at.row % p.C)).x);
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
    outQuads[i] = vec4<Stored>(activated(normalised(vec4f(xQuads[i]), at.row % p.C)));
  }
}
