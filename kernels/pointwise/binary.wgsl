// pointwise/binary — two tensors of one shape, or one of them a single element; one vec4 a thread.
//
//   a [n or 1] · b [n or 1]  →  out [n] = OP(a, b; param)
//
// cost       1–3·n flops;  reads 2·n, writes n numbers.
// needs      nothing; the lanes past n in the last vec4 are padding of the binding.
alias Stored = f32;
const ADD = 0u;
const SUB = 1u;
const MUL = 2u;
const DIV = 3u;
const MAXIMUM = 4u;
const MINIMUM = 5u;
const LEAKY_RELU_GRAD = 6u;
const TANH_GRAD = 7u;
const SIGMOID_GRAD = 8u;
const GREATER = 9u;
const RELU_GRAD = 10u;

const OP = ADD;
const A_ONE = false;
const B_ONE = false;
const WG = 256u;

struct Params { n: u32, param: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<Stored>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<Stored>>;

// y, or v where v is NaN, which max and min drop: told by the bits, since a compiler may take for granted that no float
// is NaN.
fn keepNaN(v: vec4f, y: vec4f) -> vec4f {
  return select(y, v, (bitcast<vec4u>(v) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

fn apply(l: vec4f, r: vec4f) -> vec4f {
  if (OP == SUB) { return l - r; }
  if (OP == MUL) { return l * r; }
  if (OP == DIV) { return l / r; }
  if (OP == MAXIMUM) { return keepNaN(l, keepNaN(r, max(l, r))); }
  if (OP == MINIMUM) { return keepNaN(l, keepNaN(r, min(l, r))); }
  if (OP == RELU_GRAD) { return select(l, vec4f(0.0), r <= vec4f(0.0)); }
  if (OP == LEAKY_RELU_GRAD) { return select(p.param * l, l, r > vec4f(0.0)); }
  if (OP == TANH_GRAD) { return l * (1.0 - r * r); }
  if (OP == SIGMOID_GRAD) { return l * (r * (1.0 - r)); }
  if (OP == GREATER) { return select(vec4f(0.0), vec4f(1.0), l > r); }
  return l + r;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    var l: vec4f;
    var r: vec4f;
    if (A_ONE) { l = vec4f(f32(a[0].x)); } else { l = vec4f(a[i]); }
    if (B_ONE) { r = vec4f(f32(b[0].x)); } else { r = vec4f(b[i]); }
    out[i] = vec4<Stored>(apply(l, r));
  }
}
