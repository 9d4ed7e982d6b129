// optim/sgd — a step of gradient descent, plain or with momentum; one vec4 a thread.
//
//   g [n] · hyper  →  w (and momentum) [n], in place
//   g ← g + weightDecay·w;   b ← μ·b + g;   w ← w − lr·(g, or b, or g + μ·b with NESTEROV);   ema ← d·ema + (1 − d)·w
//
// entries    `plain`, `heavy` with the momentum buffer b, which begins as zeros (the first b is then g), `average` (the
//            moving average, after either of them), and `advance` (one thread, once a step, before them: t).
// hyper      words as in optim/adam.
// cost       4–8·n flops;  reads 2·n or 3·n, writes n or 2·n floats.
// after      torch.optim.SGD without dampening.
const LR = 0u;
const WEIGHT_DECAY = 4u;
const EMA_DECAY = 5u;
const MOMENTUM = 6u;
const STEP = 9u;

const NESTEROV = false;
const WG = 256u;

struct Params { n: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> g: array<vec4f>;
@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> momentum: array<vec4f>;

@group(0) @binding(0) var<storage, read> weights: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> ema: array<vec4f>;

@group(0) @binding(0) var<storage, read_write> hyperNext: array<f32>;

@compute @workgroup_size(WG)
fn plain(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    let old = w[i];
    w[i] = old - hyper[LR] * (g[i] + hyper[WEIGHT_DECAY] * old);
  }
}

@compute @workgroup_size(WG)
fn heavy(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    let old = w[i];
    let grad = g[i] + hyper[WEIGHT_DECAY] * old;
    let b = hyper[MOMENTUM] * momentum[i] + grad;
    var direction = b;
    if (NESTEROV) { direction = grad + hyper[MOMENTUM] * b; }
    momentum[i] = b;
    w[i] = old - hyper[LR] * direction;
  }
}

@compute @workgroup_size(WG)
fn average(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    ema[i] = hyper[EMA_DECAY] * ema[i] + (1.0 - hyper[EMA_DECAY]) * weights[i];
  }
}

@compute @workgroup_size(1)
fn advance() {
  hyperNext[STEP] += 1.0;
}
