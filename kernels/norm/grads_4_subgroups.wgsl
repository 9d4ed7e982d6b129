// norm/grads_4_subgroups — the two sums of a channel that every gradient of batch norm needs; a part a workgroup.
//
//   x, dy [N, C, L] · mean, invStd, gamma, beta [C]  →  sums [parts, C, 2]:  Σ g  and  Σ g·(x − mean)·invStd,
//   g = dy past the activation
//
// since 3_tree  a subgroup adds its sums in registers, and one pair of each meets in workgroup memory: one barrier
//               where the tree has eight.
// measured   lavapipe on two busy cores, x 16×64×256: 2.5 ms, 3_tree 5.5. No GPU yet.
// cost       4·n flops;  reads 2·n numbers.
// needs      the feature subgroups, of any size from 4 up;  2·WG bytes of workgroup memory.
enable subgroups;

alias Stored = f32;

// The activation that comes after: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;

const ACT = NONE;
const SCALE = true;
const SHIFT = true;
const WG = 256u;

struct Params { N: u32, C: u32, L: u32, C0: u32, C1: u32, P1: u32, parts: u32, W: u32, slope: f32 }
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

// One pair a subgroup.
var<workgroup> shared_: array<vec2f, WG / 4u>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_invocation_id) id: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(num_subgroups) subgroups: u32,
) {
  let g = group.y * groups.x + group.x;
  let part = g / p.C;
  let c = g - part * p.C;
  let part0 = part / p.P1;
  let part1 = part - part0 * p.P1;
  // A workgroup past the last part has an empty range and only keeps the barriers company.
  let to0 = select(0u, min(p.N, (part0 + 1u) * p.C0), part < p.parts);
  let to1 = min(p.L, (part1 + 1u) * p.C1);
  let average = mean[c];

  var sum = vec2f(0.0);
  for (var n = part0 * p.C0 + local / p.W; n < to0; n += WG / p.W) {
    let row = (n * p.C + c) * p.L;
    for (var i = part1 * p.C1 + local % p.W; i < to1; i += p.W) {
      let v = f32(x[row + i]);
      let d = passed(vec4f(f32(dy[row + i])), vec4f(v), c).x;
      sum += vec2f(d, d * (v - average));
    }
  }
  let mine = subgroupAdd(sum);
  if (id == 0u) { shared_[subgroup] = mine; }
  workgroupBarrier(); // every subgroup's pair is there
  if (local == 0u && part < p.parts) {
    var total = vec2f(0.0);
    for (var s = 0u; s < subgroups; s++) { total += shared_[s]; }
    sums[g] = total * vec2f(1.0, invStd[c]);
  }
}
