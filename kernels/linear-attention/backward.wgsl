// linear-attention/backward — what the output's gradient is to features, and what the features' is to their arguments.
//
//   `weigh`:   Q · state = (S, z) · dOut [B, N, DV]  →  pairs [B, N] = (w, c):  w = 1 / φ(q)ᵀz,  c = −w²·φ(q)ᵀS·dOut
//   `spread`:  X [B, N, DK] · Y [B, N, DV] · pairs · state [B, DK, DV + 1]  →  dX [B, N, DK] = φ′(x)·(S·(w·y) + c·z)
//   φ(x) = elu(x) + 1,  φ′(x) = min(φ(x), 1)                                                    (CHANNEL: [B, dims, positions])
//
// With u = w·dOut the gradients are those of a product: of φ(q), S·u + c·z; of the state, Σ φ(q)·(u, c)ᵀ (state.wgsl); of
// φ(k), dS·v + dz, which is `spread` not WEIGHTED, where w = c = 1; of v, φ(k)ᵀdS (apply.wgsl). A thread owns four positions,
// in `spread` by TD dims. The output is not read but made again: in f16 it is rounded.
// cost       2·B·N·DK·DV flops each; reads the state once for four positions.
alias Stored = f32;

struct Params {
  B: u32,
  N: u32,
  DK: u32,
  DV: u32,
}

const CHANNEL = true;
const WEIGHTED = true;
const WG = 64u;
const TD = 8u;

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read> dOut: array<Stored>;
@group(0) @binding(3) var<storage, read_write> made: array<vec2f>;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> y: array<Stored>;
@group(0) @binding(2) var<storage, read> pairs: array<vec2f>;
@group(0) @binding(3) var<storage, read> state: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<Stored>;
var<immediate> p: Params;

fn thread_of(group: vec3u, groups: vec3u, local: u32) -> u32 {
  return (group.y * groups.x + group.x) * WG + local;
}

// Where dim d of position n is, in a tensor of D dims.
fn place(batch: u32, n: u32, d: u32, D: u32) -> u32 {
  return select((batch * p.N + n) * D + d, (batch * D + d) * p.N + n, CHANNEL);
}

// eˣ, and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(x: vec4f) -> vec4f {
  return select(exp(x), x, (bitcast<vec4u>(x) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

// Four positions from n on; those past the end repeat the last.
fn positions(n: u32) -> vec4u {
  return min(vec4u(n, n + 1u, n + 2u, n + 3u), vec4u(p.N - 1u));
}

@compute @workgroup_size(WG)
fn weigh(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let thread = thread_of(group, groups, local);
  let fours = (p.N + 3u) / 4u;
  if (thread >= p.B * fours) {
    return;
  }
  let n0 = 4u * (thread % fours);
  let batch = thread / fours;
  let n = positions(n0);

  var mass = vec4f();
  var sum = vec4f();
  for (var d0 = 0u; d0 < p.DK; d0 += TD) {
    var f: array<vec4f, TD>;
    var row: array<u32, TD>;
    for (var d = 0u; d < TD; d++) {
      row[d] = (batch * p.DK + min(d0 + d, p.DK - 1u)) * (p.DV + 1u);
      let at = vec4u(place(batch, 0u, min(d0 + d, p.DK - 1u), p.DK)) + n * select(p.DK, 1u, CHANNEL);
      let a = vec4f(f32(q[at.x]), f32(q[at.y]), f32(q[at.z]), f32(q[at.w]));
      let feature = select(exponential(a), a + 1.0, a > vec4f());
      f[d] = select(vec4f(), feature, d0 + d < p.DK);
      mass = fma(f[d], vec4f(sums[row[d] + p.DV]), mass);
    }
    for (var e = 0u; e < p.DV; e++) {
      var numerator = vec4f();
      for (var d = 0u; d < TD; d++) {
        numerator = fma(f[d], vec4f(sums[row[d] + e]), numerator);
      }
      let at = vec4u(place(batch, 0u, e, p.DV)) + n * select(p.DV, 1u, CHANNEL);
      sum = fma(numerator, vec4f(f32(dOut[at.x]), f32(dOut[at.y]), f32(dOut[at.z]), f32(dOut[at.w])), sum);
    }
  }
  let w = 1.0 / mass;
  let c = -(sum / mass) / mass;
  for (var t = 0u; t < min(4u, p.N - n0); t++) {
    made[batch * p.N + n0 + t] = vec2f(w[t], c[t]);
  }
}

@compute @workgroup_size(WG)
fn spread(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let thread = thread_of(group, groups, local);
  let fours = (p.N + 3u) / 4u;
  let slices = (p.DK + TD - 1u) / TD;
  if (thread >= p.B * slices * fours) {
    return;
  }
  let n0 = 4u * (thread % fours);
  let d0 = thread / fours % slices * TD;
  let batch = thread / fours / slices;
  let n = positions(n0);

  var w = vec4f(1.0);
  var c = vec4f(1.0);
  if (WEIGHTED) {
    for (var t = 0u; t < 4u; t++) {
      let pair = pairs[batch * p.N + n[t]];
      w[t] = pair.x;
      c[t] = pair.y;
    }
  }
  // Row d of the state from here on; dims past the end repeat the last.
  var row: array<u32, TD>;
  var acc: array<vec4f, TD>;
  for (var d = 0u; d < TD; d++) {
    row[d] = (batch * p.DK + min(d0 + d, p.DK - 1u)) * (p.DV + 1u);
    acc[d] = c * state[row[d] + p.DV];
  }
  for (var e = 0u; e < p.DV; e++) {
    let at = vec4u(place(batch, 0u, e, p.DV)) + n * select(p.DV, 1u, CHANNEL);
    let u = w * vec4f(f32(y[at.x]), f32(y[at.y]), f32(y[at.z]), f32(y[at.w]));
    for (var d = 0u; d < TD; d++) {
      acc[d] = fma(u, vec4f(state[row[d] + e]), acc[d]);
    }
  }

  for (var d = 0u; d < TD; d++) {
    if (d0 + d < p.DK) {
      for (var t = 0u; t < min(4u, p.N - n0); t++) {
        let at = place(batch, n0 + t, d0 + d, p.DK);
        let a = f32(x[at]);
        dx[at] = Stored(select(exponential(vec4f(a)).x, 1.0, a > 0.0) * acc[d][t]);
      }
    }
  }
}
