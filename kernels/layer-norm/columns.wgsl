// layer-norm/columns — gradients of scale and shift: sums down the columns, in parts of C0 rows and then over the parts.
//
//   `parts`:  x, dy [rows, cols] · mean, invStd [rows]  →  sums [parts, cols, 2] = Σ dy and Σ dy·(x - mean)·invStd
//   `join`:   sums                                      →  dgamma [cols] = Σ dy·x̂,  dbeta [cols] = Σ dy
//
// grid       `parts`: parts·cols threads, a part of a column a thread; neighbours read neighbouring columns.
//            `join`: a column a thread. Both add in the order of the rows.
// cost       5·rows·cols flops;  reads 2·rows·cols floats.
struct Params {
  rows: u32,
  cols: u32,
  C0: u32,
  parts: u32,
}

const WG = 64u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> invStd: array<f32>;
@group(0) @binding(4) var<storage, read_write> sums: array<vec2f>;

@group(0) @binding(0) var<storage, read> partSums: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> dbeta: array<f32>;

var<immediate> p: Params;

@compute @workgroup_size(WG)
fn parts(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.parts * p.cols) {
    return;
  }
  let part = t / p.cols;
  let col = t - part * p.cols;
  var sum = vec2f(0.0);
  for (var row = part * p.C0; row < min(p.rows, (part + 1u) * p.C0); row++) {
    let g = dy[row * p.cols + col];
    sum += vec2f(g, g * ((x[row * p.cols + col] - mean[row]) * invStd[row]));
  }
  sums[t] = sum;
}

@compute @workgroup_size(WG)
fn join(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let col = (group.y * groups.x + group.x) * WG + local;
  if (col >= p.cols) {
    return;
  }
  var sum = vec2f(0.0);
  for (var part = 0u; part < p.parts; part++) {
    sum += partSums[part * p.cols + col];
  }
  dbeta[col] = sum.x;
  dgamma[col] = sum.y;
}
