// pointwise/binary_broadcast — NumPy broadcasting over four collapsed dims; a broadcast axis has stride 0.
//
//   a [D0, D1, D2, D3] · b [D0, D1, D2, D3] (strided)  →  out [D0, D1, D2, D3] = OP(a, b; param)
//
// grid       ROWS = 1: group.x walks D3, group.yz the outer rows, so a row's three divisions are the same for a whole
//            workgroup; otherwise (a short D3) the threads walk the elements in a line.
// entries    `scalar`: one element a thread, any strides.  `quads`: one vec4 along D3 a thread, for D3 % 4 == 0,
//            inner strides 0 or 1 and outer strides that are multiples of 4 where the inner one is 1.
// cost       1–3·n flops;  reads each input once from memory, writes n numbers.
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
const ROWS = 1u;
const A_INNER_ONE = false;
const B_INNER_ONE = false;
const WG = 64u;

struct Params {
  D0: u32, D1: u32, D2: u32, D3: u32,
  a0: u32, a1: u32, a2: u32, a3: u32,
  b0: u32, b1: u32, b2: u32, b3: u32,
  param: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<Stored>;
@group(0) @binding(1) var<storage, read> b: array<Stored>;
@group(0) @binding(2) var<storage, read_write> out: array<Stored>;

@group(0) @binding(0) var<storage, read> aQuads: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> bQuads: array<vec4<Stored>>;
@group(0) @binding(2) var<storage, read_write> outQuads: array<vec4<Stored>>;

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

struct Place { row: u32, column: u32, inside: bool }

// Row of D0·D1·D2 and unit of the innermost axis, which has `units` of them.
fn placeOf(group: vec3u, groups: vec3u, local: u32, units: u32) -> Place {
  if (ROWS == 1u) {
    let row = group.z * groups.y + group.y;
    let column = group.x * WG + local;
    return Place(row, column, row < p.D0 * p.D1 * p.D2 && column < units);
  }
  let i = (group.y * groups.x + group.x) * WG + local;
  let row = i / units;
  return Place(row, i - row * units, row < p.D0 * p.D1 * p.D2);
}

// Where a row starts in a (x) and in b (y).
fn startsOf(row: u32) -> vec2u {
  let i01 = row / p.D2;
  let i2 = row - i01 * p.D2;
  let i0 = i01 / p.D1;
  let i1 = i01 - i0 * p.D1;
  return vec2u(i0 * p.a0 + i1 * p.a1 + i2 * p.a2, i0 * p.b0 + i1 * p.b1 + i2 * p.b2);
}

@compute @workgroup_size(WG)
fn scalar(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local, p.D3);
  if (at.inside) {
    let start = startsOf(at.row);
    let l = vec4f(f32(a[start.x + at.column * p.a3]));
    let r = vec4f(f32(b[start.y + at.column * p.b3]));
    out[at.row * p.D3 + at.column] = Stored(apply(l, r).x);
  }
}

@compute @workgroup_size(WG)
fn quads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local, p.D3 / 4u);
  if (at.inside) {
    let start = startsOf(at.row);
    var l: vec4f;
    var r: vec4f;
    if (A_INNER_ONE) {
      l = vec4f(f32(aQuads[start.x / 4u][start.x % 4u]));
    } else {
      l = vec4f(aQuads[start.x / 4u + at.column]);
    }
    if (B_INNER_ONE) {
      r = vec4f(f32(bQuads[start.y / 4u][start.y % 4u]));
    } else {
      r = vec4f(bQuads[start.y / 4u + at.column]);
    }
    outQuads[at.row * (p.D3 / 4u) + at.column] = vec4<Stored>(apply(l, r));
  }
}
