// norm/grads_1_naive — the two sums of a channel that every gradient of batch norm needs; a channel a thread.
//
//   x, dy [N, C, L] · mean, invStd, gamma, beta [C]  →  sums [1, C, 2]:  Σ g  and  Σ g·(x − mean)·invStd,
//   g = dy past the activation
//
// grid       C threads: most of a machine idles where there are few channels.
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

struct Params { N: u32, C: u32, L: u32, slope: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> invStd: array<f32>;
@group(0) @binding(4) var<storage, read> gamma: array<f32>;
@group(0) @binding(5) var<storage, read> beta: array<f32>;
@group(0) @binding(6) var<storage, read_write> sums: array<vec2f>;

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

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let c = (group.y * groups.x + group.x) * WG + local;
  if (c >= p.C) { return; }
  var total = vec2f(0.0);
  for (var n = 0u; n < p.N; n++) {
    let row = (n * p.C + c) * p.L;
    var sum = vec2f(0.0);
    for (var i = 0u; i < p.L; i++) {
      let v = f32(x[row + i]);
      let g = passed(vec4f(f32(dy[row + i])), vec4f(v), c).x;
      sum += vec2f(g, g * (v - mean[c]));
    }
    total += sum;
  }
  sums[c] = total * vec2f(1.0, invStd[c]);
}
