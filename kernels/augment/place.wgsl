// augment/place — shifts each image by up to an eighth of its size, and takes a square of half its size out of it.
//
//   x [N, K, H, W] · u [N, 8] uniform in [0, 1)  →  out [N, K, H, W]
//   out[y, x] = x[y − ty, x − tx] where that is in the image and (y, x) is not in the square, else 0
//
//   shift      t = ⌊u·(2r + 1)⌋ − r with r = ⌊size/8 + ½⌋, of u₃ down and u₄ across.
//   square     from ⌊u·(size + 1)⌋ − ⌊q/2⌋ on, q = ⌊size/2 + ½⌋ pixels, of u₅ down and u₆ across; one draw fewer where q is
//              odd. Its middle lies anywhere in the image, and what lies outside takes nothing.
//   adjoint    ADJOINT turns the way round: out[y, x] = x[y + ty, x + tx] where that is in the image and not in the square.
// grid       a thread an element; the K planes of an image, channels or frames of channels, go alike.
// cost       reads at most n numbers, writes n.
// after      Zhao et al. 2020, DiffAugment: the ratios of its released code.
alias Stored = f32;
const TRANSLATE = true;
const CUTOUT = true;
const ADJOINT = false;
const WG = 64u;

struct Params { N: u32, K: u32, H: u32, W: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<Stored>;

// A whole number of 0 … bound − 1; the product may round up to the bound.
fn draw(at: u32, bound: i32) -> i32 {
  return min(i32(u[at] * f32(bound)), bound - 1);
}

fn shift(at: u32, size: i32) -> i32 {
  let reach = (size + 4) / 8;
  return draw(at, 2 * reach + 1) - reach;
}

// Is `place` inside the square along this axis?
fn hidden(at: u32, size: i32, place: i32) -> bool {
  let side = (size + 1) / 2;
  let first = draw(at, size + 1 - (side & 1)) - side / 2;
  return place >= first && place < first + side;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i >= p.N * p.K * p.H * p.W) { return; }
  let plane = i / (p.H * p.W);
  let image = plane / p.K;
  let size = vec2i(i32(p.H), i32(p.W));
  let here = vec2i(i32(i / p.W % p.H), i32(i % p.W));
  var by = vec2i(0);
  if (TRANSLATE) { by = vec2i(shift(8u * image + 3u, size.x), shift(8u * image + 4u, size.y)); }
  let there = select(here - by, here + by, ADJOINT);
  var kept = all(there >= vec2i(0)) && all(there < size);
  if (CUTOUT) {
    let seen = select(here, there, ADJOINT); // the square is in what comes out of the forward pass
    kept = kept && !(hidden(8u * image + 5u, size.x, seen.x) && hidden(8u * image + 6u, size.y, seen.y));
  }
  var value = Stored(0.0);
  if (kept) { value = x[(plane * p.H + u32(there.x)) * p.W + u32(there.y)]; }
  out[i] = value;
}
