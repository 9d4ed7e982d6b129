// conv/data_grad_4_tensor_cores — rung 3's GEMM for each stride phase in f16, multiplied by subgroups a matrix at a time.
//
//   dy [N, K, OH, OW] · w [K, C, R, S] (+ bias [C])  →  dx [N, C, H, W]
//   Rows h with (h + padH) mod strideH = a see the taps r = a, a + strideH, … only, and likewise columns: tile.z is the phase
//   a·strideW + b. A step takes BK channels of one tap. With bias it is the forward transposed convolution.
//
// since 3    products of f16 matrices with f32 sums; the next step's tiles travel into registers while one is multiplied.
// gained     not yet timed on a GPU. Predicted: over rung 3 what matmul/7_tensor_cores is over matmul/4_vec4.
// cost       2·N·K·OH·OW·C·R·S flops, none of them with an inserted zero. K is rounded up to whole BK.
// needs      subgroup matrices of f16 with f32 sums in these sizes, subgroups of LANES; workgroup memory for two tiles of f16
//            and a matrix of f32 a subgroup; any shape. strideH may be passed as R where OH = 1, and so for W.
// after      Dumoulin & Visin 2016, §4.6 (what is avoided here); matmul/7_tensor_cores.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias Stored = f32;

const FOLDED = false;
const BIAS = false;
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
// 16 bytes more than a line spread the banks.
const A_PITCH = BK + 8u;
const B_PITCH = BN + 8u;
const A_LOADS = BM * BK / THREADS;
const B_LOADS = BN * BK / THREADS;
const_assert A_LOADS * THREADS == BM * BK && B_LOADS * THREADS == BN * BK && THREADS % BN == 0u;
const PATCH = MM * MN;

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sums = subgroup_matrix_result<f32, MN, MM>;

@group(0) @binding(0) var<storage, read> dy: array<Stored>;
@group(0) @binding(1) var<storage, read> w: array<Stored>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<Stored>;

struct Params {
  N: u32,
  C: u32,
  H: u32,
  W: u32,
  K: u32,
  R: u32,
  S: u32,
  OH: u32,
  OW: u32,
  strideH: u32,
  strideW: u32,
  padH: u32,
  padW: u32,
}
var<immediate> p: Params;

var<workgroup> as_: array<f16, BM * A_PITCH>; // [m][t]
var<workgroup> bs: array<f16, BK * B_PITCH>; // [t][column]
var<workgroup> patches: array<f32, SM * SN * PATCH>;

// What a thread brings of the next two tiles.
struct Share {
  a: array<f16, A_LOADS>,
  b: array<f16, B_LOADS>,
}

// A phase: its first tap and how many it has of them, its first pixel and how many it has of those.
struct Phase {
  tap: vec2u,
  taps: vec2u,
  pixel: vec2u,
  pixels: vec2u,
}

// This workgroup's tile: x of columns, y of rows, z the phase. FOLDED: the workgroups come in one row with the tiles of
// rows outermost, so that those past the last one have rows past the end.
fn tile_of(group: vec3u, groups: vec3u, columns: u32, depth: u32) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (columns + BN - 1u) / BN;
  return vec3u(i % across, i / (across * depth), i / across % depth);
}

// How many of first, first + step, … are < end.
fn countOf(first: vec2u, step: vec2u, end: vec2u) -> vec2u {
  return select(vec2u(), (end - first + step - 1u) / step, first < end);
}

fn phase_of(z: u32) -> Phase {
  let stride = vec2u(p.strideH, p.strideW);
  let tap = vec2u(z / p.strideW, z % p.strideW);
  let pixel = (tap + stride - vec2u(p.padH, p.padW) % stride) % stride;
  let taps = countOf(tap, stride, vec2u(p.R, p.S));
  return Phase(tap, taps, pixel, countOf(pixel, stride, vec2u(p.H, p.W)));
}

// What a column meets with the first tap of its phase: element 0 of its image in dy, row and column there. Outside any
// image the row is so far past them all that no tap brings it back.
fn place_of(column: u32, phase: Phase) -> vec3u {
  let cols = max(phase.pixels.y, 1u);
  let area = max(phase.pixels.x, 1u) * cols;
  let oh = (phase.pixel.x + p.padH) / p.strideH + column % area / cols;
  let ow = (phase.pixel.y + p.padW) / p.strideW + column % cols;
  let n = column / area;
  return vec3u(n * p.K * p.OH * p.OW, select(p.OH + p.R, oh, n < p.N), ow);
}

// A thread's share of the tiles of a step. Its elements of B are of one column, whose place is given.
fn fetch(step: u32, m0: u32, phase: Phase, place: vec3u, thread: u32) -> Share {
  let chunks = (p.K + BK - 1u) / BK;
  let tap = step / chunks;
  let k0 = step % chunks * BK;
  let i_ = tap / max(phase.taps.y, 1u);
  let j_ = tap % max(phase.taps.y, 1u);
  let r = phase.tap.x + i_ * p.strideH;
  let s = phase.tap.y + j_ * p.strideW;
  let known = tap < phase.taps.x * phase.taps.y;
  var share: Share;
  for (var i = 0u; i < A_LOADS; i++) {
    let m = m0 + (thread + i * THREADS) / BK;
    let k = k0 + (thread + i * THREADS) % BK;
    let inside = known && m < p.C && k < p.K;
    let at = select(0u, ((k * p.C + m) * p.R + r) * p.S + s, inside);
    share.a[i] = f16(select(Stored(), w[at], inside));
  }
  // Later taps meet earlier rows and columns; those before the first have wrapped, and then are not < OH, < OW.
  let oh = place.y - i_;
  let ow = place.z - j_;
  let seen = known && oh < p.OH && ow < p.OW;
  for (var i = 0u; i < B_LOADS; i++) {
    let k = k0 + (thread + i * THREADS) / BN;
    let inside = seen && k < p.K;
    let at = select(0u, place.x + (k * p.OH + oh) * p.OW + ow, inside);
    share.b[i] = f16(select(Stored(), dy[at], inside));
  }
  return share;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  // The phase with the most pixels sets how many columns of workgroups each has.
  let stride = vec2u(p.strideH, p.strideW);
  let most = countOf(vec2u(), stride, vec2u(p.H, p.W));
  let tile = tile_of(group, groups, p.N * most.x * most.y, stride.x * stride.y);
  let m0 = tile.y * BM;
  let column0 = tile.x * BN;
  let phase = phase_of(tile.z);
  let cols = phase.pixels.y;
  let area = phase.pixels.x * cols;
  let place = place_of(column0 + thread % BN, phase);
  let steps = phase.taps.x * phase.taps.y * ((p.K + BK - 1u) / BK);
  let m_first = subgroup / SN * TM * MM;
  let n_first = subgroup % SN * TN * MN;
  var sums: array<array<Sums, TN>, TM>;
  var share = fetch(0u, m0, phase, place, thread);
  for (var step = 0u; step < steps; step += 1u) {
    for (var i = 0u; i < A_LOADS; i++) {
      let e = thread + i * THREADS;
      as_[e / BK * A_PITCH + e % BK] = share.a[i];
    }
    for (var i = 0u; i < B_LOADS; i++) {
      let e = thread + i * THREADS;
      bs[e / BN * B_PITCH + e % BN] = share.b[i];
    }
    workgroupBarrier(); // both tiles are whole
    share = fetch(step + 1u, m0, phase, place, thread);
    for (var k = 0u; k < BK; k += MK) {
      var lefts: array<Left, TM>;
      for (var i = 0u; i < TM; i++) {
        lefts[i] = subgroupMatrixLoad<Left, row_major>(&as_, (m_first + i * MM) * A_PITCH + k, A_PITCH);
      }
      for (var j = 0u; j < TN; j++) {
        let r = subgroupMatrixLoad<Right, row_major>(&bs, k * B_PITCH + n_first + j * MN, B_PITCH);
        for (var i = 0u; i < TM; i++) {
          sums[i][j] = subgroupMatrixMultiplyAccumulate(lefts[i], r, sums[i][j]);
        }
      }
    }
    workgroupBarrier(); // everyone has read them
  }

  // A matrix gives its elements away only through memory. Whose threads take which patch does not matter by then.
  let owner = thread / LANES;
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN; j++) {
      subgroupMatrixStore<row_major>(&patches, subgroup * PATCH, sums[i][j], MN);
      workgroupBarrier(); // the patches are whole
      for (var e = thread % LANES; e < PATCH; e += LANES) {
        let m = m0 + (owner / SN * TM + i) * MM + e / MN;
        let column = column0 + (owner % SN * TN + j) * MN + e % MN;
        if (m < p.C && column < p.N * area) {
          let h = phase.pixel.x + column % area / cols * p.strideH;
          let v = phase.pixel.y + column % cols * p.strideW;
          var value = patches[owner * PATCH + e];
          if (BIAS) {
            value += bias[m];
          }
          dx[((column / area * p.C + m) * p.H + h) * p.W + v] = Stored(value);
        }
      }
      workgroupBarrier(); // and free again
    }
  }
}
