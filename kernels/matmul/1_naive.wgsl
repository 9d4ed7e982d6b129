// matmul/1_naive — one thread walks one row of A and one column of B.
//
//   A [batch, M, K] · B [batch, K, N]  →  out [batch, M, N], times alpha     (A [K, M] if TRANS_A, B [N, K] if TRANS_B)
//
// cost       2·M·N·K flops a batch; every output reads its 2·K operands again: 2·M·N·K floats.
// needs      nothing. strideA, strideB are elements from one batch to the next; 0 shares one matrix.
struct Params {
  M: u32,
  N: u32,
  K: u32,
  batch: u32,
  strideA: u32,
  strideB: u32,
  alpha: f32,
}

const TRANS_A = false;
const TRANS_B = false;
const FOLDED = false;
const WX = 8u;
const WY = 8u;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

// This workgroup's tile: x along N, y along M, z the batch. FOLDED: the workgroups come in one row with the tiles of M
// outermost, so that those past the last one have rows past M.
fn tile_of(group: vec3u, groups: vec3u) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.N + WX - 1u) / WX;
  return vec3u(i % across, i / (across * p.batch), i / across % p.batch);
}

@compute @workgroup_size(WX, WY)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let tile = tile_of(group, groups);
  let row = tile.y * WY + local.y;
  let col = tile.x * WX + local.x;
  if (row >= p.M || col >= p.N) {
    return;
  }
  let base_a = tile.z * p.strideA;
  let base_b = tile.z * p.strideB;
  var sum = 0.0;
  for (var k = 0u; k < p.K; k++) {
    let i = select(row * p.K + k, k * p.M + row, TRANS_A);
    let j = select(k * p.N + col, col * p.K + k, TRANS_B);
    sum = fma(a[base_a + i], b[base_b + j], sum);
  }
  out[(tile.z * p.M + row) * p.N + col] = p.alpha * sum;
}
