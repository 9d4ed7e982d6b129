// cross-entropy/grad — what each logit is to be, and how far the softmax is from it; an element a thread.
//
//   `wanted`:  labels [rows] · share [1]  →  q [rows, classes] = share·w
//   `grad`:    logits [rows, classes] · labels, lse [rows] · share, dy [1]  →  dx [rows, classes] = dy·share·(e^(logits - lse) - w)
//
//   w = (1 - smoothing)·[class is the label] + smoothing/classes;  q and dx are 0 in a row that is left out
//
// cost       `grad` 5·rows·classes flops;  reads and writes rows·classes floats.
struct Params {
  rows: u32,
  classes: u32,
  ignore: u32,
  smoothing: f32,
}

const WG = 64u;

@group(0) @binding(0) var<storage, read> chosen: array<u32>;
@group(0) @binding(1) var<storage, read> portion: array<f32>;
@group(0) @binding(2) var<storage, read_write> q: array<f32>;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> share: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

var<immediate> p: Params;

fn weight(label: u32, c: u32) -> f32 {
  return select(0.0, 1.0 - p.smoothing, label == c) + p.smoothing / f32(p.classes);
}

fn counts(label: u32) -> bool {
  return label < p.classes && label != p.ignore;
}

@compute @workgroup_size(WG)
fn wanted(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i >= p.rows * p.classes) {
    return;
  }
  let row = i / p.classes;
  let label = chosen[row];
  q[i] = select(0.0, portion[0] * weight(label, i - row * p.classes), counts(label));
}

@compute @workgroup_size(WG)
fn grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i >= p.rows * p.classes) {
    return;
  }
  let row = i / p.classes;
  let label = labels[row];
  let slope = exp(logits[i] - lse[row]) - weight(label, i - row * p.classes);
  dx[i] = select(0.0, dy[0] * share[0] * slope, counts(label));
}
