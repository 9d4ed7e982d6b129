// linear-attention/state — what all positions together are to linear attention: the sum of products of features and values.
//
//   `sum_chunk`: X [B, N, DK] · Y [B, N, DV]  →  parts [B, CHUNKS, DK, DV + 1] = Σ φ(x)·(y, 1)ᵀ over a chunk of the positions
//   `join`:     parts  →  state [B, DK, DV + 1], the chunks in their order                    (CHANNEL: [B, dims, positions])
//   φ(x) = elu(x) + 1: x + 1 where x > 0, eˣ elsewhere
//
// Of keys and values it makes the forward pass, of queries and gradients the backward pass: WEIGHTED, with pairs (w, c) for
// each position, it sums φ(x)·(w·y, c)ᵀ. A thread owns TD × TE elements of a chunk's sums; no sum has two writers.
// cost       2·B·N·DK·DV flops; reads X DV / TE times and Y DK / TD times.
// after      Katharopoulos et al. 2020, equation 6.
alias Stored = f32;

struct Params {
  B: u32,
  N: u32,
  DK: u32,
  DV: u32,
  chunks: u32,
}

const CHANNEL = true;
const WEIGHTED = false;
const WG = 64u;
const TD = 8u;
const TE = 8u;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> y: array<Stored>;
@group(0) @binding(2) var<storage, read> pairs: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> parts: array<f32>;

@group(0) @binding(0) var<storage, read> summands: array<f32>;
@group(0) @binding(1) var<storage, read_write> state: array<f32>;
var<immediate> p: Params;

fn thread_of(group: vec3u, groups: vec3u, local: u32) -> u32 {
  return (group.y * groups.x + group.x) * WG + local;
}

// Where dim d of position n is, in a tensor of D dims.
fn place(batch: u32, n: u32, d: u32, D: u32) -> u32 {
  return select((batch * p.N + n) * D + d, (batch * D + d) * p.N + n, CHANNEL);
}

// φ(x), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn feature(x: f32) -> f32 {
  let e = select(exp(x), x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
  return select(e, x + 1.0, x > 0.0);
}

@compute @workgroup_size(WG)
fn sum_chunk(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let wide = (p.DV + TE - 1u) / TE;
  let deep = (p.DK + TD - 1u) / TD;
  let thread = thread_of(group, groups, local);
  if (thread >= p.B * p.chunks * deep * wide) {
    return;
  }
  let e0 = thread % wide * TE;
  let d0 = thread / wide % deep * TD;
  let chunk = thread / wide / deep;
  let batch = chunk / p.chunks;
  let each = (p.N + p.chunks - 1u) / p.chunks;
  let first = chunk % p.chunks * each;

  var acc: array<f32, TD * TE>;
  var mass: array<f32, TD>;
  for (var n = first; n < min(p.N, first + each); n++) {
    var pair = vec2f(1.0);
    if (WEIGHTED) {
      pair = pairs[batch * p.N + n];
    }
    var values: array<f32, TE>;
    for (var e = 0u; e < TE; e++) {
      values[e] = pair.x * f32(y[place(batch, n, min(e0 + e, p.DV - 1u), p.DV)]);
    }
    for (var d = 0u; d < TD; d++) {
      let f = feature(f32(x[place(batch, n, min(d0 + d, p.DK - 1u), p.DK)]));
      mass[d] = fma(f, pair.y, mass[d]);
      for (var e = 0u; e < TE; e++) {
        acc[d * TE + e] = fma(f, values[e], acc[d * TE + e]);
      }
    }
  }

  for (var d = 0u; d < min(TD, p.DK - d0); d++) {
    let row = (chunk * p.DK + d0 + d) * (p.DV + 1u);
    for (var e = 0u; e < min(TE, p.DV - e0); e++) {
      parts[row + e0 + e] = acc[d * TE + e];
    }
    if (e0 == 0u) {
      parts[row + p.DV] = mass[d];
    }
  }
}

@compute @workgroup_size(WG)
fn join(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let size = p.DK * (p.DV + 1u);
  let thread = thread_of(group, groups, local);
  if (thread >= p.B * size) {
    return;
  }
  let first = thread / size * p.chunks * size + thread % size;
  var sum = 0.0;
  for (var c = 0u; c < p.chunks; c++) {
    sum += summands[first + c * size];
  }
  state[thread] = sum;
}
