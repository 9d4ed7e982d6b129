// matmul/7_tensor_cores — rung 6's tiles, multiplied by subgroups a whole matrix at a time.
//
//   A [batch, M, K] · B [batch, K, N]  →  out [batch, M, N], times alpha     (A [K, M] if TRANS_A, B [N, K] if TRANS_B)
//
// since 6    a subgroup holds TM × TN matrices of f32 sums and adds to each the product of two matrices of f16: one
//            instruction for MM·MN·MK multiply-adds. The next tiles travel from memory into registers meanwhile. A tile lies
//            as its operand does, and a transposed one is read by columns.
// gained     not yet timed on a GPU. Predicted: as much as the device's matrix units are faster than its multiply-adds, less what
//            staging the tiles takes.
// cost       2·M·N·K flops a batch; reads M·N·K·(1/BM + 1/BN) elements.
// needs      subgroup matrices of f16 with f32 sums in these sizes, subgroups of LANES; workgroup memory for two tiles of f16
//            and a matrix of f32 a subgroup. VEC_A, VEC_B: that operand's contiguous axis and batches are whole vec4s.
// after      Markidis et al. 2018 (f16 products, f32 sums).
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias Stored = f32;

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
const VEC_A = false;
const VEC_B = false;
// One matrix product, SM × SN subgroups of a workgroup, TM × TN matrices of a subgroup.
const MM = 16u;
const MN = 16u;
const MK = 16u;
const LANES = 32u;
const SM = 2u;
const SN = 2u;
const TM = 2u;
const TN = 2u;
const BM = SM * TM * MM;
const BN = SN * TN * MN;
const BK = 32u;
const THREADS = SM * SN * LANES;
// A tile has lines along the axis that is contiguous in memory, in vec4s; two vec4s more than a line spread the banks.
const A_LINE = select(BK, BM, TRANS_A) / 4u;
const A_LINES = select(BM, BK, TRANS_A);
const A_PITCH = A_LINE + 2u;
const A_LOADS = A_LINE * A_LINES / THREADS;
const B_LINE = select(BN, BK, TRANS_B) / 4u;
const B_LINES = select(BK, BN, TRANS_B);
const B_PITCH = B_LINE + 2u;
const B_LOADS = B_LINE * B_LINES / THREADS;
const_assert A_LOADS * THREADS * 4u == BM * BK && B_LOADS * THREADS * 4u == BN * BK;
// The compiler checks that a stride fits the tile, in the branch that is not taken too: that one gets any that does.
const A_BY_ROWS = select(A_PITCH, MK / 4u, TRANS_A);
const A_BY_COLS = select(MM / 4u, A_PITCH, TRANS_A);
const B_BY_ROWS = select(B_PITCH, MN / 4u, TRANS_B);
const B_BY_COLS = select(MK / 4u, B_PITCH, TRANS_B);
const PATCH = MM * MN;

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sums = subgroup_matrix_result<f32, MN, MM>;

@group(0) @binding(0) var<storage, read> a: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<Stored>>;
@group(0) @binding(2) var<storage, read_write> out: array<Stored>;
var<immediate> p: Params;

var<workgroup> as_: array<vec4h, A_LINES * A_PITCH>;
var<workgroup> bs: array<vec4h, B_LINES * B_PITCH>;
var<workgroup> patches: array<f32, SM * SN * PATCH>;

// What a thread brings of the next two tiles.
struct Share {
  a: array<vec4h, A_LOADS>,
  b: array<vec4h, B_LOADS>,
}

fn a_at(i: u32, inside: bool) -> f16 {
  return f16(select(Stored(), a[i >> 2u][i & 3u], inside));
}

fn b_at(i: u32, inside: bool) -> f16 {
  return f16(select(Stored(), b[i >> 2u][i & 3u], inside));
}

// Four neighbours of one line of A, 0 outside.
fn a_four(base: u32, line: u32, at: u32) -> vec4h {
  let lines = select(p.M, p.K, TRANS_A);
  let length = select(p.K, p.M, TRANS_A);
  let i = base + line * length + at;
  if (VEC_A) {
    return select(vec4h(), vec4h(a[i >> 2u]), line < lines && at < length);
  }
  let inside = vec4<bool>(line < lines) & (at + vec4u(0u, 1u, 2u, 3u) < vec4u(length));
  return vec4h(
    a_at(i, inside.x), a_at(i + 1u, inside.y), a_at(i + 2u, inside.z), a_at(i + 3u, inside.w),
  );
}

// Four neighbours of one line of B, 0 outside.
fn b_four(base: u32, line: u32, at: u32) -> vec4h {
  let lines = select(p.K, p.N, TRANS_B);
  let length = select(p.N, p.K, TRANS_B);
  let i = base + line * length + at;
  if (VEC_B) {
    return select(vec4h(), vec4h(b[i >> 2u]), line < lines && at < length);
  }
  let inside = vec4<bool>(line < lines) & (at + vec4u(0u, 1u, 2u, 3u) < vec4u(length));
  return vec4h(
    b_at(i, inside.x), b_at(i + 1u, inside.y), b_at(i + 2u, inside.z), b_at(i + 3u, inside.w),
  );
}

// This thread's share of the tiles that begin at k0. Neighbouring threads take neighbouring addresses.
fn fetch(place: vec3u, k0: u32, thread: u32) -> Share {
  let corner_a = select(vec2u(place.y * BM, k0), vec2u(k0, place.y * BM), TRANS_A);
  let corner_b = select(vec2u(k0, place.x * BN), vec2u(place.x * BN, k0), TRANS_B);
  var share: Share;
  for (var i = 0u; i < A_LOADS; i++) {
    let at = thread + i * THREADS;
    let spot = corner_a + vec2u(at / A_LINE, 4u * (at % A_LINE));
    share.a[i] = a_four(place.z * p.strideA, spot.x, spot.y);
  }
  for (var i = 0u; i < B_LOADS; i++) {
    let at = thread + i * THREADS;
    let spot = corner_b + vec2u(at / B_LINE, 4u * (at % B_LINE));
    share.b[i] = b_four(place.z * p.strideB, spot.x, spot.y);
  }
  return share;
}

// A barrier must follow.
fn stage(share: Share, thread: u32) {
  for (var i = 0u; i < A_LOADS; i++) {
    let at = thread + i * THREADS;
    as_[at / A_LINE * A_PITCH + at % A_LINE] = share.a[i];
  }
  for (var i = 0u; i < B_LOADS; i++) {
    let at = thread + i * THREADS;
    bs[at / B_LINE * B_PITCH + at % B_LINE] = share.b[i];
  }
}

// The matrix of A's tile at a row and a k of the tile. Offsets and strides count elements of the array, vec4s here.
fn left(m: u32, k: u32) -> Left {
  if (TRANS_A) {
    return subgroupMatrixLoad<Left, col_major>(&as_, k * A_PITCH + m / 4u, A_BY_COLS);
  }
  return subgroupMatrixLoad<Left, row_major>(&as_, m * A_PITCH + k / 4u, A_BY_ROWS);
}

// The matrix of B's tile at a k and a column of the tile.
fn right(k: u32, n: u32) -> Right {
  if (TRANS_B) {
    return subgroupMatrixLoad<Right, col_major>(&bs, n * B_PITCH + k / 4u, B_BY_COLS);
  }
  return subgroupMatrixLoad<Right, row_major>(&bs, k * B_PITCH + n / 4u, B_BY_ROWS);
}

// This workgroup's tile: x along N, y along M, z the batch. FOLDED: the workgroups come in one row with the tiles of M
// outermost, so that those past the last one have rows past M.
fn tile_of(group: vec3u, groups: vec3u) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.N + BN - 1u) / BN;
  return vec3u(i % across, i / (across * p.batch), i / across % p.batch);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let place = tile_of(group, groups);
  let m0 = subgroup / SN * TM * MM;
  let n0 = subgroup % SN * TN * MN;
  var sums: array<array<Sums, TN>, TM>;
  var share = fetch(place, 0u, thread);
  for (var k0 = 0u; k0 < p.K; k0 += BK) {
    stage(share, thread);
    workgroupBarrier(); // both tiles are complete
    share = fetch(place, k0 + BK, thread);
    for (var k = 0u; k < BK; k += MK) {
      var lefts: array<Left, TM>;
      for (var i = 0u; i < TM; i++) {
        lefts[i] = left(m0 + i * MM, k);
      }
      for (var j = 0u; j < TN; j++) {
        let r = right(k, n0 + j * MN);
        for (var i = 0u; i < TM; i++) {
          sums[i][j] = subgroupMatrixMultiplyAccumulate(lefts[i], r, sums[i][j]);
        }
      }
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }

  // A matrix gives its elements away only through memory. Whose threads take which patch does not matter by then.
  let owner = thread / LANES;
  let row0 = place.y * BM + owner / SN * TM * MM;
  let col0 = place.x * BN + owner % SN * TN * MN;
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN; j++) {
      subgroupMatrixStore<row_major>(&patches, subgroup * PATCH, sums[i][j], MN);
      workgroupBarrier(); // the patches are complete
      for (var e = thread % LANES; e < PATCH; e += LANES) {
        let row = row0 + i * MM + e / MN;
        let col = col0 + j * MN + e % MN;
        if (row < p.M && col < p.N) {
          out[(place.z * p.M + row) * p.N + col] = Stored(p.alpha * patches[owner * PATCH + e]);
        }
      }
      workgroupBarrier(); // and free again
    }
  }
}
