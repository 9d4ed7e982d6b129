// conv/4_window — forward, data gradient and weight gradient with the window in registers and the weights passed between lanes.
//
//   u, x: vec4s, phase [z] = where this launch reads and writes (offsets of u and x in vec4s, of out in floats)
//   →  out[m, column + v] = act(bias[m] + Σ_step Σ_q u[m, step][q] · x[column, step][SHIFT + q·IS + v·VS]),   v = 0 … 3
//   forward      m = k   column = (n, oh, 4 ow)             step = (c, r, 4 s)        q = s    VS = stride  u = w, packed
//   data grad    m = c   column = (n, i, 4 j) of a phase    step = (k, r, 4 s) of it  q = s    IS = VS = 1  u = w, packed
//   weight grad  m = k   column = (c, r, 4 s)               step = (n, oh, 4 ow)      q = ow   IS = stride  u = dy
//
// since 2    a lane reads the pixels that its four columns need as two or three whole vec4s and finds every tap of the row
//            among them: 12 pixels serve 16 products of a 4×4 window, where the gather read 16, one by one. And a weight is
//            loaded by one lane and broadcast to the others, where every lane loaded its own copy.
// gained     2 to 2.9 times rung 2 in CPU time, framing and packing counted, on sagan-32's layers at batch 16; 1.3 on a data
//            gradient of 3 channels (lavapipe, vectors of 256 bits). Not yet timed on a GPU.
// cost       2·M·P·T flops; a subgroup reads TM + 4·WV·LANES floats for TM·4·INNER·LANES multiply-adds.
// needs      subgroups of exactly LANES (8 or 16), rows of x (and of dy) framed to whole vec4s; no workgroup memory, no barrier.
enable subgroups;

const LANES = 8u;
const TM = 16u;
const INNER = 4u;
const VS = 1u;
const IS = 1u;
const SHIFT = 0u;
const BIAS = false;
const FOLDED = false;
const SLOTS = (TM + LANES - 1u) / LANES;
const WV = (SHIFT + 3u * VS + (INNER - 1u) * IS) / 4u + 1u;

// The activation of a forward convolution's result: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;
const ACT = NONE;

struct Phase {
  columns: u32, // of the phase; column = (e1·n2 + e2)·n3 + e3
  n2: u32,
  n3: u32,
  width: u32, // values of the four-wide axis: column e3 stores 4·e3 + v while that is below
  x0: u32, // x: x0 + e1·x1 + e2·x2 + e3·x3, then the step's offset
  x1: u32,
  x2: u32,
  x3: u32,
  s1: u32, // step = (t1·s2 + t2)·s3 + t3
  s2: u32,
  s3: u32,
  xs1: u32, // x: + t1·xs1 + t2·xs2 + t3·xs3
  xs2: u32,
  xs3: u32,
  u0: u32, // u: u0 + m·uM + t1·us1 + t2·s3 + t3
  uM: u32,
  us1: u32,
  out0: u32, // out: out0 + m·outM + e1·out1 + e2·out2 + e3·out3 + v·out4
  outM: u32,
  out1: u32,
  out2: u32,
  out3: u32,
  out4: u32,
}

struct Params {
  M: u32,
  blocks: u32,
  phases: u32,
  parts: u32, // of a sum; an activation wants it whole
  chunk: u32, // steps of a part
  stride: u32, // floats from one part's sums to the next
  work: f32, // multiply-adds and floats read: for the flop and byte count, not the shader
  reads: f32,
  slope: f32,
}

@group(0) @binding(0) var<storage, read> u: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> phase: array<Phase>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

// This subgroup's tile of m, block of columns and (phase, part). FOLDED: the workgroups come in one row, m innermost.
fn tile_of(group: vec3u, groups: vec3u) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.M + TM - 1u) / TM;
  return vec3u(i % across, i / across % p.blocks, i / (across * p.blocks));
}

// Row i's share of the step: its four weights times the pixels under each of them.
fn add(acc: ptr<function, array<vec4f, TM>>, i: u32, weights: vec4f, fours: array<vec4f, INNER>) {
  if (i < TM) {
    for (var q = 0u; q < INNER; q++) {
      (*acc)[i] = fma(vec4f(weights[q]), fours[q], (*acc)[i]);
    }
  }
}

// Rows first … first + LANES - 1, one from each lane. A broadcast wants its lane as a constant, so the lanes are written out;
// and so are the calls, for a loop over them is too long to be unrolled and its sums would leave the registers.
fn spread(acc: ptr<function, array<vec4f, TM>>, first: u32, w: vec4f, fours: array<vec4f, INNER>) {
  add(acc, first + 0u, subgroupBroadcast(w, 0u), fours);
  add(acc, first + 1u, subgroupBroadcast(w, 1u), fours);
  add(acc, first + 2u, subgroupBroadcast(w, 2u), fours);
  add(acc, first + 3u, subgroupBroadcast(w, 3u), fours);
  if (LANES > 4u) {
    add(acc, first + 4u, subgroupBroadcast(w, 4u), fours);
    add(acc, first + 5u, subgroupBroadcast(w, 5u), fours);
    add(acc, first + 6u, subgroupBroadcast(w, 6u), fours);
    add(acc, first + 7u, subgroupBroadcast(w, 7u), fours);
  }
  if (LANES > 8u) {
    add(acc, first + 8u, subgroupBroadcast(w, 8u), fours);
    add(acc, first + 9u, subgroupBroadcast(w, 9u), fours);
    add(acc, first + 10u, subgroupBroadcast(w, 10u), fours);
    add(acc, first + 11u, subgroupBroadcast(w, 11u), fours);
    add(acc, first + 12u, subgroupBroadcast(w, 12u), fours);
    add(acc, first + 13u, subgroupBroadcast(w, 13u), fours);
    add(acc, first + 14u, subgroupBroadcast(w, 14u), fours);
    add(acc, first + 15u, subgroupBroadcast(w, 15u), fours);
  }
}

// max drops NaN, which is told by the bits, since a compiler may take for granted that no float is NaN.
fn activated(y: vec4f) -> vec4f {
  if (ACT == RELU) {
    let isNaN = (bitcast<vec4u>(y) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u);
    return select(max(y, vec4f(0.0)), y, isNaN);
  }
  if (ACT == LEAKY_RELU) { return select(p.slope * y, y, y > vec4f(0.0)); }
  return y;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let place = tile_of(group, groups);
  let ph = phase[min(place.z / p.parts, p.phases - 1u)];
  let part = place.z % p.parts;
  // Columns past the last one repeat it; they are computed and never stored. So are rows past M.
  let index = place.y * LANES + lane;
  let live = index < ph.columns && place.z < p.phases * p.parts;
  let column = min(index, ph.columns - 1u);
  let e3 = column % ph.n3;
  let e2 = column / ph.n3 % ph.n2;
  let e1 = column / (ph.n3 * ph.n2);
  let at = ph.x0 + e1 * ph.x1 + e2 * ph.x2 + e3 * ph.x3;
  let m0 = place.x * TM;
  var row: array<u32, SLOTS>;
  for (var s = 0u; s < SLOTS; s++) {
    row[s] = ph.u0 + min(m0 + s * LANES + lane, p.M - 1u) * ph.uM;
  }
  var acc: array<vec4f, TM>;
  if (BIAS) {
    for (var i = 0u; i < TM; i++) {
      acc[i] = vec4f(bias[min(m0 + i, p.M - 1u)]);
    }
  }

  let first = part * p.chunk;
  let last = min(first + p.chunk, ph.s1 * ph.s2 * ph.s3);
  var t3 = first % max(ph.s3, 1u);
  var t2 = first / max(ph.s3, 1u) % max(ph.s2, 1u);
  var t1 = first / max(ph.s3 * ph.s2, 1u);
  for (var t = first; t < last; t++) {
    let xa = at + t1 * ph.xs1 + t2 * ph.xs2 + t3 * ph.xs3;
    let ua = t1 * ph.us1 + t2 * ph.s3 + t3;
    var window: array<vec4f, WV>;
    for (var w = 0u; w < WV; w++) {
      window[w] = x[xa + w];
    }
    var us: array<vec4f, 6>;
    for (var s = 0u; s < SLOTS; s++) {
      us[s] = u[row[s] + ua];
    }
    // fours[q] = the pixels that tap q brings to the four columns
    var fours: array<vec4f, INNER>;
    for (var q = 0u; q < INNER; q++) {
      for (var v = 0u; v < 4u; v++) {
        let pixel = SHIFT + q * IS + v * VS;
        fours[q][v] = window[pixel / 4u][pixel % 4u];
      }
    }
    spread(&acc, 0u, us[0], fours);
    if (SLOTS > 1u) {
      spread(&acc, LANES, us[1], fours);
    }
    if (SLOTS > 2u) {
      spread(&acc, 2u * LANES, us[2], fours);
    }
    if (SLOTS > 3u) {
      spread(&acc, 3u * LANES, us[3], fours);
      spread(&acc, 4u * LANES, us[4], fours);
      spread(&acc, 5u * LANES, us[5], fours);
    }
    t3 += 1u;
    let row_done = t3 == ph.s3;
    t3 = select(t3, 0u, row_done);
    t2 += select(0u, 1u, row_done);
    let plane_done = t2 == ph.s2;
    t2 = select(t2, 0u, plane_done);
    t1 += select(0u, 1u, plane_done);
  }

  let start = ph.out0 + part * p.stride + e1 * ph.out1 + e2 * ph.out2 + e3 * ph.out3;
  for (var i = 0u; i < TM; i++) {
    let four = activated(acc[i]);
    for (var v = 0u; v < 4u; v++) {
      if (live && m0 + i < p.M && 4u * e3 + v < ph.width) {
        out[start + (m0 + i) * ph.outM + v * ph.out4] = four[v];
      }
    }
  }
}
