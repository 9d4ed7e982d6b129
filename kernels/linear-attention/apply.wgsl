// linear-attention/apply — every position asks the state by its features: all keys at once, for the price of one.
//
//   X [B, N, DK] · state [B, DK, DV + 1] = (S, z)  →  out [B, N, DV] = φ(x)ᵀS / φ(x)ᵀz        (CHANNEL: [B, dims, positions])
//   φ(x) = elu(x) + 1: x + 1 where x > 0, eˣ elsewhere
//
// Of queries it makes the output; of keys and the gradient of the state, not DIVIDED, the gradient of the values. A thread
// owns four positions and TE columns, and passes over the dims of the state.
// cost       2·B·N·DK·DV flops; reads X DV / TE times, and the state once for four positions.
// after      Katharopoulos et al. 2020, equation 5.
alias Stored = f32;

struct Params {
  B: u32,
  N: u32,
  DK: u32,
  DV: u32,
}

const CHANNEL = true;
const DIVIDED = true;
const WG = 64u;
const TE = 16u;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> state: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<Stored>;
var<immediate> p: Params;

// Where dim d of position n is, in a tensor of D dims.
fn place(batch: u32, n: u32, d: u32, D: u32) -> u32 {
  return select((batch * p.N + n) * D + d, (batch * D + d) * p.N + n, CHANNEL);
}

// φ of dim d of four positions from n on, and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn features(batch: u32, n: vec4u, d: u32) -> vec4f {
  let at = vec4u(place(batch, 0u, d, p.DK)) + n * select(p.DK, 1u, CHANNEL);
  let a = vec4f(f32(x[at.x]), f32(x[at.y]), f32(x[at.z]), f32(x[at.w]));
  let e = select(exp(a), a, (bitcast<vec4u>(a) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
  return select(e, a + 1.0, a > vec4f());
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let thread = (group.y * groups.x + group.x) * WG + local;
  let fours = (p.N + 3u) / 4u;
  let slices = (p.DV + TE - 1u) / TE;
  if (thread >= p.B * slices * fours) {
    return;
  }
  let n0 = 4u * (thread % fours);
  let e0 = thread / fours % slices * TE;
  let batch = thread / fours / slices;
  // Those past the end repeat the last.
  let n = min(vec4u(n0, n0 + 1u, n0 + 2u, n0 + 3u), vec4u(p.N - 1u));

  var acc: array<vec4f, TE>;
  var mass = vec4f();
  for (var d = 0u; d < p.DK; d++) {
    let f = features(batch, n, d);
    let row = (batch * p.DK + d) * (p.DV + 1u);
    if (DIVIDED) {
      mass = fma(f, vec4f(state[row + p.DV]), mass);
    }
    for (var e = 0u; e < TE; e++) {
      acc[e] = fma(f, vec4f(state[row + min(e0 + e, p.DV)]), acc[e]);
    }
  }

  for (var e = 0u; e < TE; e++) {
    if (e0 + e < p.DV) {
      let row = select(acc[e], acc[e] / mass, DIVIDED);
      for (var t = 0u; t < min(4u, p.N - n0); t++) {
        out[place(batch, n0 + t, e0 + e, p.DV)] = Stored(row[t]);
      }
    }
  }
}
