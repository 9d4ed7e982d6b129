// topk-attention/gather — sums over the chosen pairs of query and key, for one side or the other.
//
//   `gather`:   weight, index [B, TOP, Nq] · y [B, Nk, D]                     →  out [B, Nq, D] = Σ over t of weight·y[index]
//   `collect`:  weight [B, TOP, Nq] · start [B, Nk + 1], list [B, TOP·Nq] · x [B, Nq, D]  →  sums [B, Nk, D]
//               = Σ weight·x over the pairs that chose the key, in the order of its list  (CHANNEL: [B, D, positions])
//
// A thread owns TD columns of one position. Of the weights `gather` makes the attention's output (y = V), of the gradients
// of the scores dq (y = K); `collect` likewise dv (x = dOut) and dk (x = Q). No sum has two writers.
// cost       2·B·TOP·Nq·D flops; reads as many numbers, and index and weight D / TD times.
alias Stored = f32;

struct Params {
  B: u32,
  Nq: u32,
  Nk: u32,
  D: u32,
}

const CHANNEL = true;
const TOP = 16u;
const WG = 64u;
const TD = 8u;

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read> y: array<Stored>;
@group(0) @binding(3) var<storage, read_write> out: array<Stored>;

@group(0) @binding(1) var<storage, read> start: array<u32>;
@group(0) @binding(2) var<storage, read> list: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<Stored>;
@group(0) @binding(4) var<storage, read_write> sums: array<Stored>;
var<immediate> p: Params;

// Where dim d of position n is, in a tensor of N positions.
fn place(batch: u32, n: u32, d: u32, N: u32) -> u32 {
  return select((batch * N + n) * p.D + d, (batch * p.D + d) * N + n, CHANNEL);
}

// Batch, position and first column of a thread, neighbours at neighbouring positions; false past the last one.
fn task(group: vec3u, groups: vec3u, local: u32, N: u32, own: ptr<function, vec3u>) -> bool {
  let thread = (group.y * groups.x + group.x) * WG + local;
  let slices = (p.D + TD - 1u) / TD;
  *own = vec3u(thread / N / slices, thread % N, thread / N % slices * TD);
  return thread < p.B * slices * N;
}

@compute @workgroup_size(WG)
fn gather(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  var own: vec3u;
  if (!task(group, groups, local, p.Nq, &own)) { return; }
  var acc: array<f32, TD>;
  for (var t = 0u; t < TOP; t++) {
    let pair = (own.x * TOP + t) * p.Nq + own.y;
    let w = weight[pair];
    let j = index[pair];
    for (var c = 0u; c < TD; c++) {
      acc[c] = fma(w, f32(y[place(own.x, j, min(own.z + c, p.D - 1u), p.Nk)]), acc[c]);
    }
  }
  for (var c = 0u; c < TD && own.z + c < p.D; c++) {
    out[place(own.x, own.y, own.z + c, p.Nq)] = Stored(acc[c]);
  }
}

@compute @workgroup_size(WG)
fn collect(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  var own: vec3u;
  if (!task(group, groups, local, p.Nk, &own)) { return; }
  let pairs = own.x * TOP * p.Nq;
  let first = own.x * (p.Nk + 1u) + own.y;
  var acc: array<f32, TD>;
  for (var s = start[first]; s < start[first + 1u]; s++) {
    let pair = list[pairs + s];
    let w = weight[pairs + pair];
    for (var c = 0u; c < TD; c++) {
      acc[c] = fma(w, f32(x[place(own.x, pair % p.Nq, min(own.z + c, p.D - 1u), p.Nq)]), acc[c]);
    }
  }
  for (var c = 0u; c < TD && own.z + c < p.D; c++) {
    sums[place(own.x, own.y, own.z + c, p.Nk)] = Stored(acc[c]);
  }
}
