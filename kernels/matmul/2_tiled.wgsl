// matmul/2_tiled — a workgroup brings T × T tiles of A and B into workgroup memory and every thread uses them T times.
//
//   A [batch, M, K] · B [batch, K, N]  →  out [batch, M, N], times alpha     (A [K, M] if TRANS_A, B [N, K] if TRANS_B)
//
// since 1    an operand leaves memory once for each tile, not for each output: T times fewer reads. Threads that are
//            neighbours read neighbouring addresses, in either storage order.
// gained     not yet timed on a GPU, for which it is made.
// cost       2·M·N·K flops a batch; reads 2·M·N·K/T floats.
// needs      T·T invocations, 2·T·(T+1)·4 bytes of workgroup memory.
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
const T = 16u;
// One word more than a row, so that a column of a tile does not sit in one memory bank.
const PITCH = T + 1u;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

// as_[m][k] and bs[k][n]
var<workgroup> as_: array<f32, T * PITCH>;
var<workgroup> bs: array<f32, T * PITCH>;

// This workgroup's tile: x along N, y along M, z the batch. FOLDED: the workgroups come in one row with the tiles of M
// outermost, so that those past the last one have rows past M.
fn tile_of(group: vec3u, groups: vec3u) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.N + T - 1u) / T;
  return vec3u(i % across, i / (across * p.batch), i / across % p.batch);
}

@compute @workgroup_size(T, T)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let tile = tile_of(group, groups);
  let row0 = tile.y * T;
  let col0 = tile.x * T;
  let base_a = tile.z * p.strideA;
  let base_b = tile.z * p.strideB;
  let x = local.x;
  let y = local.y;
  var sum = 0.0;
  for (var k0 = 0u; k0 < p.K; k0 += T) {
    // x runs along the contiguous axis of whatever is stored.
    if (TRANS_A) {
      let inside = k0 + y < p.K && row0 + x < p.M;
      as_[x * PITCH + y] = select(0.0, a[base_a + (k0 + y) * p.M + row0 + x], inside);
    } else {
      let inside = row0 + y < p.M && k0 + x < p.K;
      as_[y * PITCH + x] = select(0.0, a[base_a + (row0 + y) * p.K + k0 + x], inside);
    }
    if (TRANS_B) {
      let inside = col0 + y < p.N && k0 + x < p.K;
      bs[x * PITCH + y] = select(0.0, b[base_b + (col0 + y) * p.K + k0 + x], inside);
    } else {
      let inside = k0 + y < p.K && col0 + x < p.N;
      bs[y * PITCH + x] = select(0.0, b[base_b + (k0 + y) * p.N + col0 + x], inside);
    }
    workgroupBarrier(); // both tiles are complete
    for (var k = 0u; k < T; k++) {
      sum = fma(as_[y * PITCH + k], bs[k * PITCH + x], sum);
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }
  let row = row0 + y;
  let col = col0 + x;
  if (row < p.M && col < p.N) {
    out[(tile.z * p.M + row) * p.N + col] = p.alpha * sum;
  }
}
