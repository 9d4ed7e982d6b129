// norm/dx — the gradient of the input of batch norm in training, through the statistics.
//
//   x, dy [N, C, L] · mean, invStd, gamma, beta [C] · means [C, 2]  →  dx [N, C, L]
//   dx = gamma·invStd·(g − mean(g) − x̂·mean(g·x̂)),   g = dy past the activation,   means = (mean(g), mean(g·x̂))
//   JOINT: dx = invStd·(gamma·g − mean(gamma·g) − x̂·mean(gamma·g·x̂)), for means over channels whose gammas differ
//
// grid       ROWS as in norm/apply.
// entries    `scalar`, and `quads` (one vec4 along L a thread) for L a multiple of 4.
// cost       6·n flops;  reads 2·n, writes n numbers.
// needs      without SCALE or SHIFT the caller binds any [C] tensor in the place of gamma or beta; it is not read.
alias Stored = f32;

// The activation that comes after: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;

const ACT = NONE;
const SCALE = true;
const SHIFT = true;
const JOINT = false;
const ROWS = 1u;
const WG = 64u;

struct Params { N: u32, C: u32, L: u32, slope: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> invStd: array<f32>;
@group(0) @binding(4) var<storage, read> gamma: array<f32>;
@group(0) @binding(5) var<storage, read> beta: array<f32>;
@group(0) @binding(6) var<storage, read> means: array<vec2f>;
@group(0) @binding(7) var<storage, read_write> dx: array<Stored>;
@group(0) @binding(0) var<storage, read> xQuads: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> dyQuads: array<vec4<Stored>>;
@group(0) @binding(7) var<storage, read_write> dxQuads: array<vec4<Stored>>;

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

fn gradient(v: vec4f, dy: vec4f, c: u32) -> vec4f {
  let inv = invStd[c];
  var scale = inv;
  if (SCALE) { scale *= gamma[c]; }
  let hat = (v - mean[c]) * inv;
  if (JOINT) { return scale * passed(dy, v, c) - inv * (means[c].x + hat * means[c].y); }
  return scale * (passed(dy, v, c) - means[c].x - hat * means[c].y);
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
    dx[i] = Stored(gradient(vec4f(f32(x[i])), vec4f(f32(dy[i])), at.row % p.C).x);
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
    dxQuads[i] = vec4<Stored>(gradient(vec4f(xQuads[i]), vec4f(dyQuads[i]), at.row % p.C));
  }
}
