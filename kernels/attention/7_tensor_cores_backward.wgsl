// attention/7_tensor_cores_backward — rung 3's backward passes by subgroup matrices.
//
//   delta [B, Nq] = Σ dOut·out = Σ P·dP comes from delta.wgsl                         (CHANNEL: [B, dims, positions])
//   queries Q, K, V, dOut, lse, delta  →  dq:       a workgroup owns ROWS queries, keys pass by
//   keys    Q, K, V, dOut, lse, delta  →  dk, dv:   a workgroup owns ROWS keys, queries pass by
//   P = exp(s - lse),  dP = dOut·Vᵀ,  dS = scale·P·(dP - delta),  dq = dS·K,  dk = dSᵀ·Q,  dv = Pᵀ·dOut
//
// since 3    products of f16 matrices with f32 sums. A thread keeps its P in f32 while dP takes the place of the scores; P and
//            dS are rounded to f16 just before they weigh. P is kept 2¹⁵ times larger, as in the forward pass.
// gained     not yet timed on a GPU. Predicted: over rung 5 what the matrix units are over multiply-adds.
// cost       2·B·Nq·Nk·(2·DK + DV) flops for queries, 2·B·Nq·Nk·(2·DK + 2·DV) for keys.
// needs      subgroup matrices of f16 with f32 sums in these sizes, subgroups of LANES; workgroup memory for the tiles; any
//            sizes. tile.z takes the next TV columns of the results; dP is made only where there are columns of dk.
// after      Dao 2023, algorithm 2, with its one loop taken apart so that no two workgroups add to one place.
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
const WRITE_DK = true;
const WRITE_DV = true;
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
const OWN = ROWS * COLS / THREADS;
const_assert COLS >= MN && OWN * THREADS == ROWS * COLS;
const LARGER = 32768.0;
const Q = 0u;
const K = 1u;
const V = 2u;
const DOUT = 3u;

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sums = subgroup_matrix_result<f32, MN, MM>;
alias Wide = array<Sums, TV / MN>;
alias Own = array<f32, OWN>;

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> k: array<Stored>;
@group(0) @binding(2) var<storage, read> v: array<Stored>;
@group(0) @binding(3) var<storage, read> dOut: array<Stored>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read_write> dq: array<Stored>;
@group(0) @binding(6) var<storage, read_write> dk: array<Stored>;
@group(0) @binding(7) var<storage, read_write> dv: array<Stored>;
var<immediate> p: Params;

var<workgroup> rows: array<f16, ROWS * DC / ROWS_LINE * ROWS_PITCH>;
var<workgroup> cols: array<f16, COLS * DC / COLS_LINE * COLS_PITCH>;
var<workgroup> wide: array<f16, COLS * TV / WIDE_LINE * WIDE_PITCH>;
var<workgroup> weights: array<f16, ROWS * WEIGHTS_PITCH>;
var<workgroup> scores: array<f32, ROWS * SCORES_PITCH>;

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
  let N = select(p.Nk, p.Nq, tensor == Q || tensor == DOUT);
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
    case V: {
      return f16(v[i]);
    }
    default: {
      return f16(dOut[i]);
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

// This thread's weights P out of the scores. Queries are the rows, or else the columns.
fn weights_of(batch: u32, n: vec2u, by_rows: bool, thread: u32) -> Own {
  var own: Own;
  for (var i = 0u; i < OWN; i++) {
    let r = (thread + i * THREADS) / COLS;
    let c = (thread + i * THREADS) % COLS;
    let query = select(n.y + c, n.x + r, by_rows);
    let key = select(n.x + r, n.y + c, by_rows);
    let kept = lse[batch * p.Nq + min(query, p.Nq - 1u)];
    let w = exp(p.scale * scores[r * SCORES_PITCH + c] - kept);
    // A score past an end is 0, not a score: it gets no weight.
    own[i] = select(0.0, w, query < p.Nq && key < p.Nk);
  }
  return own;
}

// weights = P. A barrier must follow.
fn put_weights(own: Own, thread: u32) {
  for (var i = 0u; i < OWN; i++) {
    let at = thread + i * THREADS;
    weights[at / COLS * WEIGHTS_PITCH + at % COLS] = f16(LARGER * own[i]);
  }
}

// weights = dS, from P and the dP in the scores. A barrier must follow.
fn put_gradients(own: Own, batch: u32, n: vec2u, by_rows: bool, thread: u32) {
  for (var i = 0u; i < OWN; i++) {
    let r = (thread + i * THREADS) / COLS;
    let c = (thread + i * THREADS) % COLS;
    let query = select(n.y + c, n.x + r, by_rows);
    let mean = delta[batch * p.Nq + min(query, p.Nq - 1u)];
    let dS = p.scale * own[i] * (scores[r * SCORES_PITCH + c] - mean);
    weights[r * WEIGHTS_PITCH + c] = f16(dS);
  }
}

@compute @workgroup_size(THREADS)
fn queries(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let tile = tile_of(group, groups, (p.DK + TV - 1u) / TV);
  let batch = tile.y;
  let n0 = tile.x * ROWS;
  let d0 = tile.z * TV;
  var sums: Wide;
  for (var j0 = 0u; j0 < p.Nk; j0 += COLS) {
    let n = vec2u(n0, j0);
    product(Q, K, batch, n, p.DK, thread, subgroup);
    let own = weights_of(batch, n, true, thread);
    product(DOUT, V, batch, n, p.DV, thread, subgroup);
    put_gradients(own, batch, n, true, thread);
    load_wide(K, batch, j0, d0, thread);
    workgroupBarrier(); // dS and keys are complete
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
      if (n0 + r < p.Nq && d < p.DK) {
        dq[place(batch, n0 + r, d, p.Nq, p.DK)] = Stored(scores[r * SCORES_PITCH + e]);
      }
    }
    workgroupBarrier(); // and has been read
  }
}

@compute @workgroup_size(THREADS)
fn keys(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let tile = tile_of(group, groups, (max(p.DK, p.DV) + TV - 1u) / TV);
  let batch = tile.y;
  let n0 = tile.x * ROWS;
  let d0 = tile.z * TV;
  let makes_dk = WRITE_DK && d0 < p.DK;
  let makes_dv = WRITE_DV && d0 < p.DV;
  var sums_k: Wide;
  var sums_v: Wide;
  for (var i0 = 0u; i0 < p.Nq; i0 += COLS) {
    let n = vec2u(n0, i0);
    product(K, Q, batch, n, p.DK, thread, subgroup);
    let own = weights_of(batch, n, false, thread);
    if (makes_dv) {
      put_weights(own, thread);
      load_wide(DOUT, batch, i0, d0, thread);
      workgroupBarrier(); // P and dOut are complete
      sums_v = weighed(sums_v, subgroup);
      workgroupBarrier(); // nobody reads them any more
    }
    if (makes_dk) {
      product(V, DOUT, batch, n, p.DV, thread, subgroup);
      put_gradients(own, batch, n, false, thread);
      load_wide(Q, batch, i0, d0, thread);
      workgroupBarrier(); // dS and queries are complete
      sums_k = weighed(sums_k, subgroup);
      workgroupBarrier(); // nobody reads them any more
    }
  }

  if (makes_dk) {
    for (var j = 0u; j < TV / MN; j++) {
      subgroupMatrixStore<row_major>(&scores, subgroup * MM * SCORES_PITCH, sums_k[j], SCORES_PITCH);
      workgroupBarrier(); // a matrix of each subgroup is complete
      for (var i = thread; i < ROWS * MN; i += THREADS) {
        let r = select(i / MN, i % ROWS, CHANNEL);
        let e = select(i % MN, i / ROWS, CHANNEL);
        let d = d0 + j * MN + e;
        if (n0 + r < p.Nk && d < p.DK) {
          dk[place(batch, n0 + r, d, p.Nk, p.DK)] = Stored(scores[r * SCORES_PITCH + e]);
        }
      }
      workgroupBarrier(); // and has been read
    }
  }
  if (makes_dv) {
    for (var j = 0u; j < TV / MN; j++) {
      subgroupMatrixStore<row_major>(&scores, subgroup * MM * SCORES_PITCH, sums_v[j], SCORES_PITCH);
      workgroupBarrier(); // a matrix of each subgroup is complete
      for (var i = thread; i < ROWS * MN; i += THREADS) {
        let r = select(i / MN, i % ROWS, CHANNEL);
        let e = select(i % MN, i / ROWS, CHANNEL);
        let d = d0 + j * MN + e;
        if (n0 + r < p.Nk && d < p.DV) {
          dv[place(batch, n0 + r, d, p.Nk, p.DV)] = Stored(1.0 / LARGER * scores[r * SCORES_PITCH + e]);
        }
      }
      workgroupBarrier(); // and has been read
    }
  }
}
