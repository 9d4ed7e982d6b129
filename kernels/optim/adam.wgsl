// optim/adam — a step of Adam and the moving average of the weights in one pass; one vec4 a thread.
//
//   g [n] · hyper, scaler  →  w, m, v (and ema) [n], in place
//   g ← g + weightDecay·w;   m ← β₁m + (1 − β₁)g;   v ← β₂v + (1 − β₂)g²
//   w ← w − lr/(1 − β₁ᵗ) · m/(√v/√(1 − β₂ᵗ) + eps);   ema ← d·ema + (1 − d)·w
//
// entries    `adam`, `adamEma`, and `advance` or `advanceScaled` (one thread, once a step, before them: t, β₁ᵗ, β₂ᵗ).
// SCALED     g is times the loss scale, and an overflow, as optim/scaler found it, leaves everything as it was.
// hyper      words as hyperIndex in src/kernels/optim.ts has them; the constants below repeat it, and a test compares.
// needs      without SCALED the caller binds hyper in the place of scaler; it is not read.
// cost       15·n flops;  reads 4·n (5·n), writes 3·n (4·n) floats.
// after      Kingma & Ba 2015; torch.optim.Adam (L2, not decoupled).
const LR = 0u;
const BETA1 = 1u;
const BETA2 = 2u;
const EPS = 3u;
const WEIGHT_DECAY = 4u;
const EMA_DECAY = 5u;
const MOMENTUM = 6u;
const BETA1_POWER = 7u;
const BETA2_POWER = 8u;
const STEP = 9u;

// Words of the scaler's state, as optim/scaler has them.
const SCALE = 0u;
const FOUND = 2u;

const SCALED = false;
const WG = 256u;

struct Params { n: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> g: array<vec4f>;
@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read> scaler: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> ema: array<vec4f>;

@group(0) @binding(0) var<storage, read_write> hyperNext: array<f32>;
@group(0) @binding(1) var<storage, read> scalerNow: array<f32>;

fn isSkipped() -> bool {
  if (SCALED) { return bitcast<u32>(scaler[FOUND]) != 0u; }
  return false;
}

fn update(i: u32) -> vec4f {
  let beta1 = hyper[BETA1];
  let beta2 = hyper[BETA2];
  let old = w[i];
  var grad = g[i];
  if (SCALED) { grad /= scaler[SCALE]; }
  grad += hyper[WEIGHT_DECAY] * old;
  let first = beta1 * m[i] + (1.0 - beta1) * grad;
  let second = beta2 * v[i] + (1.0 - beta2) * (grad * grad);
  let size = hyper[LR] / (1.0 - hyper[BETA1_POWER]);
  let root = sqrt(1.0 - hyper[BETA2_POWER]);
  let weight = old - size * (first / (sqrt(second) / root + hyper[EPS]));
  m[i] = first;
  v[i] = second;
  w[i] = weight;
  return weight;
}

@compute @workgroup_size(WG)
fn adam(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u && !isSkipped()) { _ = update(i); }
}

@compute @workgroup_size(WG)
fn adamEma(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u && !isSkipped()) {
    let weight = update(i);
    ema[i] = hyper[EMA_DECAY] * ema[i] + (1.0 - hyper[EMA_DECAY]) * weight;
  }
}

fn next() {
  hyperNext[BETA1_POWER] *= hyperNext[BETA1];
  hyperNext[BETA2_POWER] *= hyperNext[BETA2];
  hyperNext[STEP] += 1.0;
}

@compute @workgroup_size(1)
fn advance() { next(); }

@compute @workgroup_size(1)
fn advanceScaled() {
  if (bitcast<u32>(scalerNow[FOUND]) == 0u) { next(); }
}
