// reduce/tree — one workgroup owns one result; its threads read side by side and join in a tree.
//
//   x [O, R0, K, R1]  →  out [parts, O·K] = scale · Σ (or max) over a part of R0 × R1
//
// since thread   neighbouring threads read neighbouring terms, and a long sum has WG short sums in it.
// grid       parts·O·K workgroups; W threads (a power of two) go along R1, WG/W along R0.
// order      fixed: a thread's own terms, then halves of the workgroup, so the same bits every time.
// max        is NaN where a term is, and -∞ where all are: every thread starts from the first term of the part.
// cost       n flops;  reads n numbers once, writes floats.
// needs      WG·4 bytes of workgroup memory.
alias Stored = f32;
const SUM = 0u;
const MAX = 1u;

const OP = SUM;
const WG = 256u;

struct Params {
  K: u32, R0: u32, R1: u32,
  C0: u32, C1: u32, P1: u32, parts: u32,
  outputs: u32, W: u32, scale: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

var<workgroup> sums: array<f32, WG>;

// y, or v where v is NaN, which max drops: told by the bits, since a compiler may take for granted that no float is NaN.
fn keepNaN(v: f32, y: f32) -> f32 {
  return select(y, v, (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u);
}

fn join(l: f32, r: f32) -> f32 {
  if (OP == MAX) { return keepNaN(l, keepNaN(r, max(l, r))); }
  return l + r;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let g = group.y * groups.x + group.x;
  let part = g / p.outputs;
  let o = g - part * p.outputs;
  let oo = o / p.K;
  let base = (oo * p.R0 * p.K + (o - oo * p.K)) * p.R1;
  let part0 = part / p.P1;
  let part1 = part - part0 * p.P1;
  // A workgroup past the last part finds an empty range here and only keeps the barriers company.
  let to0 = select(0u, min(p.R0, (part0 + 1u) * p.C0), part < p.parts);
  let to1 = min(p.R1, (part1 + 1u) * p.C1);

  var total = 0.0;
  if (OP == MAX) { total = f32(x[base + part0 * p.C0 * p.K * p.R1 + part1 * p.C1]); }
  for (var r0 = part0 * p.C0 + local / p.W; r0 < to0; r0 += WG / p.W) {
    let row = base + r0 * p.K * p.R1;
    for (var r1 = part1 * p.C1 + local % p.W; r1 < to1; r1 += p.W) {
      total = join(total, f32(x[row + r1]));
    }
  }
  sums[local] = total;
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    workgroupBarrier(); // the upper half of the last round is in `sums`
    if (local < half) { sums[local] = join(sums[local], sums[local + half]); }
  }
  if (local == 0u && part < p.parts) { out[g] = sums[0] * p.scale; }
}
