// pointwise/unary — one vec4 a thread; OP chooses the function, and the compiler folds the other branches away.
//
//   x [n]  →  out [n] = OP(x; a, b)
//
// cost       1–20·n flops;  reads n, writes n numbers.
// needs      nothing; the lanes past n in the last vec4 are padding of the binding.
// NaN        stays NaN in every OP but STEP, as in PyTorch.
// exact      tanh, sigmoid and softplus form only exp of negative numbers, so they hold for |x| up to 1e4 and more.
// after      Cephes tanhf (Moshier) for |x| < 0.625.
alias Stored = f32;
const NEG = 0u;
const ABS = 1u;
const SQUARE = 2u;
const SQRT = 3u;
const RSQRT = 4u;
const RECIPROCAL = 5u;
const EXP = 6u;
const LOG = 7u;
const RELU = 8u;
const LEAKY_RELU = 9u;
const TANH = 10u;
const SIGMOID = 11u;
const SOFTPLUS = 12u;
const STEP = 13u;
const AFFINE = 14u;
const COPY = 15u;
const CLAMP = 16u;
const ELU_PLUS_ONE = 17u;

const OP = RELU;
const WG = 256u;

struct Params { n: u32, a: f32, b: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<Stored>>;

// The quotient loses its digits near 0, where the odd polynomial takes over.
fn tanhOf(v: vec4f) -> vec4f {
  let e = exp(-2.0 * abs(v));
  let far = sign(v) * ((1.0 - e) / (1.0 + e));
  let z = v * v;
  var s = vec4f(-5.70498872745e-3);
  s = s * z + 2.06390887954e-2;
  s = s * z - 5.37397155531e-2;
  s = s * z + 1.33314422036e-1;
  s = s * z - 3.33332819422e-1;
  return select(far, s * z * v + v, abs(v) < vec4f(0.625));
}

fn sigmoidOf(v: vec4f) -> vec4f {
  let e = exp(-abs(v));
  return select(e, vec4f(1.0), v >= vec4f(0.0)) / (1.0 + e);
}

// max(v, 0) + log(1 + e) with e = exp(-|v|) ≤ 1, and log(1 + e) = 2·atanh(e / (2 + e)): right for the smallest e too.
fn softplusOf(v: vec4f) -> vec4f {
  let e = exp(-abs(v));
  let s = e / (2.0 + e);
  let z = s * s;
  var t = vec4f(1.0 / 15.0);
  t = t * z + 1.0 / 13.0;
  t = t * z + 1.0 / 11.0;
  t = t * z + 1.0 / 9.0;
  t = t * z + 1.0 / 7.0;
  t = t * z + 1.0 / 5.0;
  t = t * z + 1.0 / 3.0;
  return max(v, vec4f(0.0)) + 2.0 * s * (1.0 + z * t);
}

// y, or v where v is NaN: max and clamp drop it, and so does a driver that bounds the argument of exp or log. Told by
// the bits, since a compiler may take for granted that no float is NaN.
fn keepNaN(v: vec4f, y: vec4f) -> vec4f {
  return select(y, v, (bitcast<vec4u>(v) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

fn apply(v: vec4f) -> vec4f {
  if (OP == NEG) { return -v; }
  if (OP == ABS) { return abs(v); }
  if (OP == SQUARE) { return v * v; }
  if (OP == SQRT) { return sqrt(v); }
  if (OP == RSQRT) { return 1.0 / sqrt(v); }
  if (OP == RECIPROCAL) { return 1.0 / v; }
  if (OP == EXP) { return keepNaN(v, exp(v)); }
  if (OP == LOG) { return keepNaN(v, log(v)); }
  if (OP == RELU) { return keepNaN(v, max(v, vec4f(0.0))); }
  if (OP == LEAKY_RELU) { return select(p.a * v, v, v > vec4f(0.0)); }
  if (OP == TANH) { return keepNaN(v, tanhOf(v)); }
  if (OP == SIGMOID) { return keepNaN(v, sigmoidOf(v)); }
  if (OP == SOFTPLUS) { return keepNaN(v, softplusOf(v)); }
  if (OP == STEP) { return select(vec4f(p.a), vec4f(1.0), v > vec4f(0.0)); }
  if (OP == AFFINE) { return p.a * v + p.b; }
  if (OP == CLAMP) { return keepNaN(v, clamp(v, vec4f(p.a), vec4f(p.b))); }
  if (OP == ELU_PLUS_ONE) { return keepNaN(v, select(exp(min(v, vec4f(0.0))), v + 1.0, v > vec4f(0.0))); }
  return v;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    out[i] = vec4<Stored>(apply(vec4f(x[i])));
  }
}
