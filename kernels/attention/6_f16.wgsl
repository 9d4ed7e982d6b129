// attention/6_f16 — rung 5 with operands of two bytes: half the traffic, and twice the positions in a tile of the same bytes.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//   joined = gamma·out + shortcut, of a block with a residual
//
// since 5    tiles are kept as vec4<f16> and widened on their way into the multiply-add: scores, m, l and sums are f32. 64 keys
//            share a tile instead of 32: half the barriers, and a thread's share of the scores is 4 × 4 with X = 16.
//            Weights are kept 2¹⁵ times larger, within f16 up to weight 1. `Stored` may be f32 as well: operands are then
//            rounded while a tile is made. Predicted: twice rung 5 where workgroup memory bounds it; never timed on a GPU.
// cost       2·B·Nq·Nk·(DK + DV) flops; reads Nq/64·Nk·(DK + DV) elements a batch.
// needs      f16; subgroups of at least X = 4, 8 or 16; any sizes; 16·X invocations, 16 KiB of workgroup memory. tile.z
//            takes the next TV columns of out, and makes the scores again for them. ALIGNED: the contiguous axis of every
//            tensor is a multiple of 4, and is read as vec4s.
// after      Dao 2023, algorithm 1.
enable f16;
enable subgroups;

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
const ALIGNED = false;
const FOLDED = false;
// What is stored: out (0), joined (1), or both (2), where a backward pass will read out.
const STORE = 0u;
// Threads of a row: a subgroup holds whole rows of them, so that a row's maximum is found by shuffles.
const X = 4u;
const ROWS = 64u;
const COLS = 64u;
const DC = 32u;
const TV = 64u;
const WG = 16u * X;
const TN4 = COLS / 4u / X;
const E4 = TV / 4u / X;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;
const LARGER = 32768.0;

@group(0) @binding(0) var<storage, read> q: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<Stored>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<Stored>>;
@group(0) @binding(3) var<storage, read_write> out: array<Stored>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> gamma: array<f32>;
@group(0) @binding(6) var<storage, read> shortcut: array<Stored>;
@group(0) @binding(7) var<storage, read_write> joined: array<Stored>;
var<immediate> p: Params;

alias Tensor = ptr<storage, array<vec4<Stored>>, read>;

// Lines of 16 vec4s: DC dims of the rows, then DC of the columns, a vec4 four positions; between two products COLS positions
// of the tensor that is weighed, a vec4 four dims. Beside them the weights, a line a column, a vec4 four rows. A thread owns
// rows 4y … 4y + 3 and columns 4(x + X·c) … + 3.
var<workgroup> stage: array<vec4h, COLS * 16u>;
var<workgroup> weights: array<vec4h, COLS * 16u>;

// Lines are turned by their number, so that threads which write down a column of vec4s meet different banks.
fn slot(line: u32, quad: u32) -> u32 {
  return line * 16u + (quad ^ (line / 4u % 16u));
}

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
fn value(t: Tensor, batch: u32, n: u32, d: u32, N: u32, D: u32) -> f16 {
  if (n >= N || d >= D) {
    return 0.0h;
  }
  let i = place(batch, n, d, N, D);
  return f16(t[i / 4u][i % 4u]);
}

// Four elements along the contiguous axis, 0 outside.
fn four(t: Tensor, batch: u32, n: u32, d: u32, N: u32, D: u32) -> vec4h {
  if (!ALIGNED) {
    let s = select(vec2u(0u, 1u), vec2u(1u, 0u), CHANNEL);
    return vec4h(
      value(t, batch, n, d, N, D),
      value(t, batch, n + s.x, d + s.y, N, D),
      value(t, batch, n + 2u * s.x, d + 2u * s.y, N, D),
      value(t, batch, n + 3u * s.x, d + 3u * s.y, N, D),
    );
  }
  if (n >= N || d >= D) {
    return vec4h();
  }
  return vec4h(t[place(batch, n, d, N, D) / 4u]);
}

// Positions n … n + 3 by dims d … d + 3, a vec4 a dim or else (`wide`) a vec4 a position.
fn block(t: Tensor, batch: u32, n: u32, d: u32, N: u32, D: u32, wide: bool) -> mat4x4h {
  var lines: mat4x4h;
  for (var i = 0u; i < 4u; i++) {
    lines[i] = four(t, batch, n + select(i, 0u, CHANNEL), d + select(0u, i, CHANNEL), N, D);
  }
  if (wide == CHANNEL) {
    return transpose(lines);
  }
  return lines;
}

// DC dims of 64 positions, a line a dim from line `first` on. A barrier must follow.
fn load_narrow(t: Tensor, first: u32, batch: u32, n: u32, d0: u32, N: u32, D: u32, thread: u32) {
  for (var i = thread; i < 4u * DC; i += WG) {
    let r = select(i / (DC / 4u), i % 16u, CHANNEL);
    let d = select(i % (DC / 4u), i / 16u, CHANNEL);
    let lines = block(t, batch, n + 4u * r, d0 + 4u * d, N, D, false);
    for (var j = 0u; j < 4u; j++) {
      stage[slot(first + 4u * d + j, r)] = lines[j];
    }
  }
}

// Dims d0 … of COLS positions, a line a position. A barrier must follow.
fn load_wide(t: Tensor, batch: u32, n: u32, d0: u32, N: u32, D: u32, thread: u32) {
  for (var i = thread; i < 4u * COLS; i += WG) {
    let c = select(i / 16u, i % 16u, CHANNEL);
    let e = select(i % 16u, i / 16u, CHANNEL);
    let lines = block(t, batch, n + 4u * c, d0 + 4u * e, N, D, true);
    for (var j = 0u; j < 4u; j++) {
      stage[slot(4u * c + j, e)] = lines[j];
    }
  }
}

// s[c][j] = Σ over D of rows 4y … 4y + 3 times column 4(x + X·c) + j, of two tensors, DC dims at a time.
fn product(a: Tensor, b: Tensor, batch: u32, n: vec2u, N: vec2u, D: u32, thread: u32) -> array<mat4x4f, TN4> {
  var s: array<mat4x4f, TN4>;
  for (var d0 = 0u; d0 < D; d0 += DC) {
    load_narrow(a, 0u, batch, n.x, d0, N.x, D, thread);
    load_narrow(b, DC, batch, n.y, d0, N.y, D, thread);
    workgroupBarrier(); // both tiles are complete
    for (var d = 0u; d < min(DC, D - d0); d++) {
      let r = vec4f(stage[slot(d, thread / X)]);
      for (var c = 0u; c < TN4; c++) {
        let k = vec4f(stage[slot(DC + d, thread % X + X * c)]);
        for (var j = 0u; j < 4u; j++) {
          s[c][j] = fma(r, vec4f(k[j]), s[c][j]);
        }
      }
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }
  return s;
}

// weights = factor · w. A barrier must follow.
fn store_weights(w: array<mat4x4f, TN4>, factor: f32, thread: u32) {
  for (var c = 0u; c < TN4; c++) {
    for (var j = 0u; j < 4u; j++) {
      weights[slot(4u * (thread % X + X * c) + j, thread / X)] = vec4h(factor * w[c][j]);
    }
  }
}

// acc + weights · stage: of the thread's four rows (a column each) and its dims 4(x + X·e) … + 3.
fn weighed(acc: array<mat4x4f, E4>, thread: u32) -> array<mat4x4f, E4> {
  var sum = acc;
  for (var c = 0u; c < COLS; c++) {
    let w = vec4f(weights[slot(c, thread / X)]);
    for (var e = 0u; e < E4; e++) {
      let x = vec4f(stage[slot(c, thread % X + X * e)]);
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
fn store(i: u32, sum: f32) {
  let o = Stored(sum);
  if (STORE != 1u) {
    out[i] = o;
  }
  if (STORE != 0u) {
    joined[i] = Stored(gamma[0] * f32(o) + f32(shortcut[i]));
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
    for (var c = 0u; c < TN4; c++) {
      for (var j = 0u; j < 4u; j++) {
        s[c][j] *= p.scale;
        top = select(top, max(top, s[c][j]), j0 + 4u * (x + X * c) + j < p.Nk);
      }
    }
    top = row_max(top);
    let shrink = exp(m - top);
    m = top;
    l *= shrink;
    for (var c = 0u; c < TN4; c++) {
      for (var j = 0u; j < 4u; j++) {
        let inside = j0 + 4u * (x + X * c) + j < p.Nk;
        s[c][j] = select(vec4f(), exponential(s[c][j] - top), inside);
        l += s[c][j];
      }
    }
    store_weights(s, LARGER, thread);
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
          store(place(batch, i, d, p.Nq, p.DV), acc[e][r][c] / (LARGER * l[r]));
        }
      }
    }
    if (i < p.Nq && x == 0u && tile.z == 0u) {
      lse[batch * p.Nq + i] = m[r] + logarithm(l[r]);
    }
  }
}
