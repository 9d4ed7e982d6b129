// attention/7_tensor_cores — scores and outputs by subgroup matrices, in two passes, since their sums cannot be rescaled.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   statistics  Q, K → lse = log Σ exp(scale·QKᵀ)
//   forward     Q, K, V, lse → out = exp(scale·QKᵀ - lse)·V
//               and joined = gamma·out + shortcut, of a block with a residual
//
// since 3    products of f16 matrices with f32 sums. A matrix shows its elements only in memory, so a running maximum would
//            send the outputs through it at every step; with lse known beforehand there is no maximum to run. The scores
//            are made again for that: DK is small beside DV. Weights are kept 2¹⁵ times larger, within f16 up to weight 1,
//            and precise down to 2⁻²⁹: an even row of 16,384 keys has weights of 2⁻¹⁴.
// gained     not yet timed on a GPU. Predicted: over rung 5 what the matrix units are over multiply-adds, less DK/(DK + DV) of
//            scores made twice.
// cost       2·B·Nq·Nk·(2·DK + DV) flops; reads Nq/ROWS·Nk·(2·DK + DV) elements a batch.
// needs      subgroup matrices of f16 with f32 sums in these sizes, subgroups of LANES; workgroup memory for the tiles; any
//            sizes. tile.z takes the next TV columns of out, and makes the scores again for them.
// after      Dao 2023; Milakov & Gimelshein 2018 for the first pass.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias Stored = f32;

struct Params {
  B: u32,
  Nq: u32,
  Nk: u32,
  DK: u32,
  DV: u32,
  scale: f32,
}

const CHANNEL = true;
const FOLDED = false;
// What is stored: out (0), joined (1), or both (2), where a backward pass will read out.
const STORE = 0u;
// One matrix product; SG subgroups own MM rows each; tiles of COLS columns, DC dims deep and TV dims wide.
const MM = 16u;
const MN = 16u;
const MK = 16u;
const LANES = 32u;
const SG = 4u;
const ROWS = SG * MM;
const COLS = 16u;
const DC = 16u;
const TV = 64u;
const THREADS = SG * LANES;
// A tile lies as its tensor does; 16 bytes more than a line spread the banks.
const ROWS_LINE = select(DC, ROWS, CHANNEL);
const ROWS_PITCH = ROWS_LINE + 8u;
const COLS_LINE = select(DC, COLS, CHANNEL);
const COLS_PITCH = COLS_LINE + 8u;
const WIDE_LINE = select(TV, COLS, CHANNEL);
const WIDE_PITCH = WIDE_LINE + 8u;
// The compiler checks that a stride fits the tile, in the branch that is not taken too: that one gets any that does.
const ROWS_BY_ROWS = select(ROWS_PITCH, MK, CHANNEL);
const ROWS_BY_COLS = select(MM, ROWS_PITCH, CHANNEL);
const COLS_BY_ROWS = select(MN, COLS_PITCH, CHANNEL);
const COLS_BY_COLS = select(COLS_PITCH, MK, CHANNEL);
const WIDE_BY_ROWS = select(WIDE_PITCH, MN, CHANNEL);
const WIDE_BY_COLS = select(MK, WIDE_PITCH, CHANNEL);
const SCORES_PITCH = COLS + 4u;
const WEIGHTS_PITCH = COLS + 8u;
const_assert COLS >= MN && THREADS % ROWS == 0u;
const PARTS = THREADS / ROWS;
// Lowest start of a maximum; its product with log2(e) is still finite.
const LOWEST = -1e38;
const LARGER = 32768.0;
const Q = 0u;
const K = 1u;
const V = 2u;

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sums = subgroup_matrix_result<f32, MN, MM>;
alias Wide = array<Sums, TV / MN>;

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> k: array<Stored>;
@group(0) @binding(2) var<storage, read> v: array<Stored>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<storage, read> keptLse: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<Stored>;
@group(0) @binding(5) var<storage, read> gamma: array<f32>;
@group(0) @binding(6) var<storage, read> shortcut: array<Stored>;
@group(0) @binding(7) var<storage, read_write> joined: array<Stored>;
var<immediate> p: Params;

var<workgroup> rows: array<f16, ROWS * DC / ROWS_LINE * ROWS_PITCH>;
var<workgroup> cols: array<f16, COLS * DC / COLS_LINE * COLS_PITCH>;
var<workgroup> wide: array<f16, COLS * TV / WIDE_LINE * WIDE_PITCH>;
var<workgroup> weights: array<f16, ROWS * WEIGHTS_PITCH>;
var<workgroup> scores: array<f32, ROWS * SCORES_PITCH>;
var<workgroup> parts: array<vec2f, THREADS>;

// This workgroup's rows, batch and slice of columns. FOLDED: the workgroups come in one row with the rows outermost, so
// that those past the last one have rows past the end.
fn tile_of(group: vec3u, groups: vec3u, slices: u32) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  return vec3u(i / (slices * p.B), i / slices % p.B, i % slices);
}

// Where dim d of position n is, in a tensor of N positions and D dims.
fn place(batch: u32, n: u32, d: u32, N: u32, D: u32) -> u32 {
  return select((batch * N + n) * D + d, (batch * D + d) * N + n, CHANNEL);
}

// Element d of position n, 0 outside.
fn value(tensor: u32, batch: u32, n: u32, d: u32) -> f16 {
  let N = select(p.Nk, p.Nq, tensor == Q);
  let D = select(p.DV, p.DK, tensor == Q || tensor == K);
  if (n >= N || d >= D) {
    return 0.0h;
  }
  let i = place(batch, n, d, N, D);
  switch tensor {
    case Q: {
      return f16(q[i]);
    }
    case K: {
      return f16(k[i]);
    }
    default: {
      return f16(v[i]);
    }
  }
}

fn row_matrix(r: u32, d: u32) -> Left {
  if (CHANNEL) {
    return subgroupMatrixLoad<Left, col_major>(&rows, d * ROWS_PITCH + r, ROWS_BY_COLS);
  }
  return subgroupMatrixLoad<Left, row_major>(&rows, r * ROWS_PITCH + d, ROWS_BY_ROWS);
}

fn col_matrix(d: u32, c: u32) -> Right {
  if (CHANNEL) {
    return subgroupMatrixLoad<Right, row_major>(&cols, d * COLS_PITCH + c, COLS_BY_ROWS);
  }
  return subgroupMatrixLoad<Right, col_major>(&cols, c * COLS_PITCH + d, COLS_BY_COLS);
}

fn wide_matrix(c: u32, e: u32) -> Right {
  if (CHANNEL) {
    return subgroupMatrixLoad<Right, col_major>(&wide, e * WIDE_PITCH + c, WIDE_BY_COLS);
  }
  return subgroupMatrixLoad<Right, row_major>(&wide, c * WIDE_PITCH + e, WIDE_BY_ROWS);
}

// scores[r][c] = Σ over D of row n.x + r times column n.y + c, of two tensors, DC dims at a time. Complete on return.
fn product(a: u32, b: u32, batch: u32, n: vec2u, D: u32, thread: u32, subgroup: u32) {
  var sums: array<Sums, COLS / MN>;
  for (var d0 = 0u; d0 < D; d0 += DC) {
    for (var i = thread; i < DC * ROWS; i += THREADS) {
      let r = select(i / DC, i % ROWS, CHANNEL);
      let d = select(i % DC, i / ROWS, CHANNEL);
      rows[i / ROWS_LINE * ROWS_PITCH + i % ROWS_LINE] = value(a, batch, n.x + r, d0 + d);
    }
    for (var i = thread; i < DC * COLS; i += THREADS) {
      let c = select(i / DC, i % COLS, CHANNEL);
      let d = select(i % DC, i / COLS, CHANNEL);
      cols[i / COLS_LINE * COLS_PITCH + i % COLS_LINE] = value(b, batch, n.y + c, d0 + d);
    }
    workgroupBarrier(); // both tiles are complete, and nobody reads the last scores any more
    for (var d = 0u; d < DC; d += MK) {
      let l = row_matrix(subgroup * MM, d);
      for (var j = 0u; j < COLS / MN; j++) {
        sums[j] = subgroupMatrixMultiplyAccumulate(l, col_matrix(d, j * MN), sums[j]);
      }
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }
  for (var j = 0u; j < COLS / MN; j++) {
    let at = subgroup * MM * SCORES_PITCH + j * MN;
    subgroupMatrixStore<row_major>(&scores, at, sums[j], SCORES_PITCH);
  }
  workgroupBarrier(); // the scores are complete
}

// wide = dims d0 … of positions n …. A barrier must follow.
fn load_wide(tensor: u32, batch: u32, n: u32, d0: u32, thread: u32) {
  for (var i = thread; i < COLS * TV; i += THREADS) {
    let c = select(i / TV, i % COLS, CHANNEL);
    let e = select(i % TV, i / COLS, CHANNEL);
    wide[i / WIDE_LINE * WIDE_PITCH + i % WIDE_LINE] = value(tensor, batch, n + c, d0 + e);
  }
}

// acc + weights · wide for the subgroup's rows. A barrier must follow before either is written again.
fn weighed(acc: Wide, subgroup: u32) -> Wide {
  var sums = acc;
  for (var c = 0u; c < COLS; c += MK) {
    let at = subgroup * MM * WEIGHTS_PITCH + c;
    let l = subgroupMatrixLoad<Left, row_major>(&weights, at, WEIGHTS_PITCH);
    for (var j = 0u; j < TV / MN; j++) {
      sums[j] = subgroupMatrixMultiplyAccumulate(l, wide_matrix(c, j * MN), sums[j]);
    }
  }
  return sums;
}

// Element i of out, and of the block that adds it to its shortcut.
fn store(i: u32, sum: f32) {
  let o = Stored(sum);
  if (STORE != 1u) {
    out[i] = o;
  }
  if (STORE != 0u) {
    joined[i] = Stored(gamma[0] * f32(o) + f32(shortcut[i]));
  }
}

@compute @workgroup_size(THREADS)
fn statistics(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let tile = tile_of(group, groups, 1u);
  let batch = tile.y;
  let n0 = tile.x * ROWS;
  // A thread takes every PARTS-th score of one row.
  let row = thread % ROWS;
  var m = LOWEST;
  var l = 0.0;
  for (var j0 = 0u; j0 < p.Nk; j0 += COLS) {
    product(Q, K, batch, vec2u(n0, j0), p.DK, thread, subgroup);
    let end = min(COLS, p.Nk - j0);
    var top = m;
    for (var c = thread / ROWS; c < end; c += PARTS) {
      top = max(top, p.scale * scores[row * SCORES_PITCH + c]);
    }
    l *= exp(m - top);
    m = top;
    for (var c = thread / ROWS; c < end; c += PARTS) {
      l += exp(p.scale * scores[row * SCORES_PITCH + c] - m);
    }
  }
  parts[thread] = vec2f(m, l);
  workgroupBarrier(); // every part is complete
  if (thread < ROWS && n0 + row < p.Nq) {
    for (var part = 1u; part < PARTS; part++) {
      let other = parts[part * ROWS + row];
      let top = max(m, other.x);
      l = l * exp(m - top) + other.y * exp(other.x - top);
      m = top;
    }
    lse[batch * p.Nq + n0 + row] = m + log(l);
  }
}

@compute @workgroup_size(THREADS)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let tile = tile_of(group, groups, (p.DV + TV - 1u) / TV);
  let batch = tile.y;
  let n0 = tile.x * ROWS;
  let d0 = tile.z * TV;
  var sums: Wide;
  for (var j0 = 0u; j0 < p.Nk; j0 += COLS) {
    product(Q, K, batch, vec2u(n0, j0), p.DK, thread, subgroup);
    for (var i = thread; i < ROWS * COLS; i += THREADS) {
      let r = i / COLS;
      let c = i % COLS;
      let kept = keptLse[batch * p.Nq + min(n0 + r, p.Nq - 1u)];
      let w = LARGER * exp(p.scale * scores[r * SCORES_PITCH + c] - kept);
      // A score past an end is 0, not a score: it gets no weight.
      weights[r * WEIGHTS_PITCH + c] = f16(select(0.0, w, n0 + r < p.Nq && j0 + c < p.Nk));
    }
    load_wide(V, batch, j0, d0, thread);
    workgroupBarrier(); // weights and values are complete
    sums = weighed(sums, subgroup);
    workgroupBarrier(); // nobody reads them any more
  }

  for (var j = 0u; j < TV / MN; j++) {
    subgroupMatrixStore<row_major>(&scores, subgroup * MM * SCORES_PITCH, sums[j], SCORES_PITCH);
    workgroupBarrier(); // a matrix of each subgroup is complete
    for (var i = thread; i < ROWS * MN; i += THREADS) {
      let r = select(i / MN, i % ROWS, CHANNEL);
      let e = select(i % MN, i / ROWS, CHANNEL);
      let d = d0 + j * MN + e;
      if (n0 + r < p.Nq && d < p.DV) {
        store(place(batch, n0 + r, d, p.Nq, p.DV), 1.0 / LARGER * scores[r * SCORES_PITCH + e]);
      }
    }
    workgroupBarrier(); // and has been read
  }
}
