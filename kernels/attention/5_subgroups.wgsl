// attention/5_subgroups — vec4s in workgroup memory, and a row's maximum by shuffles instead of through the scores.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//   joined = gamma·out + shortcut, of a block with a residual
//
// since 4    four rows of a weight and four dims of a value are a vec4: 2 loads from workgroup memory for 16 multiply-adds
//            where rung 4 has 8. The X threads of a row sit in one subgroup and find its maximum among themselves, so the
//            scores never go through memory, and two barriers a block are gone. Gain on a GPU: not yet timed.
// cost       2·B·Nq·Nk·(DK + DV) flops; reads Nq/64·Nk·(DK + DV) floats a batch.
// needs      subgroups of at least X = 4, 8 or 16; any sizes; 16·X invocations, 16 KiB of workgroup memory. tile.z takes
//            the next TV columns of out, and makes the scores again for them.
// after      Dao 2023, algorithm 1.
enable subgroups;

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
// Threads of a row: a subgroup holds whole rows of them, so that a row's maximum is found by shuffles.
const X = 4u;
const ROWS = 64u;
const COLS = 32u;
const DC = 8u;
const TV = 64u;
const WG = 16u * X;
const TN = COLS / X;
const E4 = TV / 4u / X;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> gamma: array<f32>;
@group(0) @binding(6) var<storage, read> shortcut: array<f32>;
@group(0) @binding(7) var<storage, read_write> joined: array<f32>;
var<immediate> p: Params;

alias Tensor = ptr<storage, array<f32>, read>;

// DC dims of the rows, then of the columns, dims first, a vec4 four positions; between two products COLS rows of the
// tensor that is weighed. Beside it the weights, a vec4 four of a column's rows. A thread owns rows 4y … 4y + 3.
var<workgroup> stage: array<vec4f, COLS * TV / 4u>;
var<workgroup> weights: array<vec4f, COLS * ROWS / 4u>;

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
fn value(t: Tensor, batch: u32, n: u32, d: u32, N: u32, D: u32) -> f32 {
  if (n >= N || d >= D) {
    return 0.0;
  }
  return t[place(batch, n, d, N, D)];
}

// Dim d of positions n … n + 3.
fn four(t: Tensor, batch: u32, n: u32, d: u32, N: u32, D: u32) -> vec4f {
  return vec4f(
    value(t, batch, n, d, N, D),
    value(t, batch, n + 1u, d, N, D),
    value(t, batch, n + 2u, d, N, D),
    value(t, batch, n + 3u, d, N, D),
  );
}

// s[c] = Σ over D of rows 4y … 4y + 3 times column x + X·c, of two tensors, DC dims at a time.
fn product(a: Tensor, b: Tensor, batch: u32, n: vec2u, N: vec2u, D: u32, thread: u32) -> array<vec4f, TN> {
  let x = thread % X;
  let y = thread / X;
  let cols = DC * 16u;
  var s: array<vec4f, TN>;
  for (var d0 = 0u; d0 < D; d0 += DC) {
    for (var i = thread; i < DC * 16u; i += WG) {
      let r = select(i / DC, i % 16u, CHANNEL);
      let d = select(i % DC, i / 16u, CHANNEL);
      stage[d * 16u + r] = four(a, batch, n.x + 4u * r, d0 + d, N.x, D);
    }
    for (var i = thread; i < DC * 8u; i += WG) {
      let c = select(i / DC, i % 8u, CHANNEL);
      let d = select(i % DC, i / 8u, CHANNEL);
      stage[cols + d * 8u + c] = four(b, batch, n.y + 4u * c, d0 + d, N.y, D);
    }
    workgroupBarrier(); // both tiles are complete
    for (var d = 0u; d < DC; d++) {
      let r = stage[d * 16u + y];
      for (var c = 0u; c < TN; c++) {
        let at = x + X * c;
        s[c] = fma(r, vec4f(stage[cols + d * 8u + at / 4u][at % 4u]), s[c]);
      }
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }
  return s;
}

// stage[c][e] = dim d0 + e of position n + c, four dims a vec4. A barrier must follow.
fn load_wide(t: Tensor, batch: u32, n: u32, d0: u32, N: u32, D: u32, thread: u32) {
  for (var i = thread; i < COLS * TV / 4u; i += WG) {
    let c = select(i / (TV / 4u), i % COLS, CHANNEL);
    let e = select(i % (TV / 4u), i / COLS, CHANNEL);
    let d = d0 + 4u * e;
    stage[c * (TV / 4u) + e] = vec4f(
      value(t, batch, n + c, d, N, D),
      value(t, batch, n + c, d + 1u, N, D),
      value(t, batch, n + c, d + 2u, N, D),
      value(t, batch, n + c, d + 3u, N, D),
    );
  }
}

// A barrier must follow.
fn store_weights(w: array<vec4f, TN>, thread: u32) {
  for (var c = 0u; c < TN; c++) {
    weights[(thread % X + X * c) * 16u + thread / X] = w[c];
  }
}

// acc + weights · stage: of the thread's four rows (a column each) and its dims 4(x + X·e) … + 3.
fn weighed(acc: array<mat4x4f, E4>, thread: u32) -> array<mat4x4f, E4> {
  var sum = acc;
  for (var c = 0u; c < COLS; c++) {
    let w = weights[c * 16u + thread / X];
    for (var e = 0u; e < E4; e++) {
      let x = stage[c * (TV / 4u) + thread % X + X * e];
      for (var r = 0u; r < 4u; r++) {
        sum[e][r] = fma(vec4f(w[r]), x, sum[e][r]);
      }
    }
  }
  return sum;
}

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: vec4f) -> vec4f {
  return select(exp(d), d, (bitcast<vec4u>(d) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

// log(l), and NaN of NaN likewise.
fn logarithm(l: f32) -> f32 {
  return select(log(l), l, (bitcast<u32>(l) & 0x7fffffffu) > 0x7f800000u);
}

// Over the X threads of a row; every one of them gets it.
fn row_max(value: vec4f) -> vec4f {
  var m = value;
  for (var step = 1u; step < X; step *= 2u) {
    m = max(m, subgroupShuffleXor(m, step));
  }
  return m;
}

fn row_sum(value: vec4f) -> vec4f {
  var sum = value;
  for (var step = 1u; step < X; step *= 2u) {
    sum += subgroupShuffleXor(sum, step);
  }
  return sum;
}

// Element i of out, and of the block that adds it to its shortcut.
fn store(i: u32, o: f32) {
  if (STORE != 1u) {
    out[i] = o;
  }
  if (STORE != 0u) {
    joined[i] = gamma[0] * o + shortcut[i];
  }
}

@compute @workgroup_size(WG)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let tile = tile_of(group, groups, (p.DV + TV - 1u) / TV);
  let batch = tile.y;
  let i0 = tile.x * ROWS;
  let e0 = tile.z * TV;
  // Neighbours of this number are neighbours in a subgroup, which the local index does not promise.
  let thread = subgroup * size + lane;
  let x = thread % X;
  let y = thread / X;

  var m = vec4f(LOWEST);
  // This thread's columns alone; the row's sum is made at the end.
  var l = vec4f();
  var acc: array<mat4x4f, E4>;
  for (var j0 = 0u; j0 < p.Nk; j0 += COLS) {
    var s = product(&q, &k, batch, vec2u(i0, j0), vec2u(p.Nq, p.Nk), p.DK, thread);
    load_wide(&v, batch, j0, e0, p.Nk, p.DV, thread);
    var top = m;
    for (var c = 0u; c < TN; c++) {
      s[c] *= p.scale;
      top = select(top, max(top, s[c]), j0 + x + X * c < p.Nk);
    }
    top = row_max(top);
    let shrink = exp(m - top);
    m = top;
    l *= shrink;
    for (var c = 0u; c < TN; c++) {
      s[c] = select(vec4f(), exponential(s[c] - top), j0 + x + X * c < p.Nk);
      l += s[c];
    }
    store_weights(s, thread);
    for (var e = 0u; e < E4; e++) {
      for (var r = 0u; r < 4u; r++) {
        acc[e][r] *= shrink[r];
      }
    }
    workgroupBarrier(); // weights and values are complete
    acc = weighed(acc, thread);
    workgroupBarrier(); // nobody reads them any more
  }
  l = row_sum(l);

  for (var r = 0u; r < 4u; r++) {
    let i = i0 + 4u * y + r;
    for (var e = 0u; e < E4; e++) {
      for (var c = 0u; c < 4u; c++) {
        let d = e0 + 4u * (x + X * e) + c;
        if (i < p.Nq && d < p.DV) {
          store(place(batch, i, d, p.Nq, p.DV), acc[e][r][c] / l[r]);
        }
      }
    }
    if (i < p.Nq && x == 0u && tile.z == 0u) {
      lse[batch * p.Nq + i] = m[r] + logarithm(l[r]);
    }
  }
}
