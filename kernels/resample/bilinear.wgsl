// resample/bilinear — resizing by two taps an axis, and its adjoint as a gather: the same weights, no atomics.
//
//   `resize`:          x [N, H, W]       →  out [N, OH, OW]
//   `resizeBackward`:  dOut [N, OH, OW]  →  dx [N, H, W];  a pixel asks each result that may have used it for its weight
//
//   source of result o:  CORNERS ? o·(H − 1)/(OH − 1) : max(0, (o + ½)·H/OH − ½);  scaleH, scaleW are these ratios
//
// cost       6·|out| flops;  the gradient looks at about (2·OH/H + 4)·(2·OW/W + 4) results a pixel.
// after      torch.nn.functional.interpolate(mode='bilinear'), no antialias.
alias Stored = f32;
const CORNERS = false;
const WG = 64u;

struct Params { N: u32, H: u32, W: u32, OH: u32, OW: u32, scaleH: f32, scaleW: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<Stored>;
@group(0) @binding(0) var<storage, read> dOut: array<Stored>;
@group(0) @binding(1) var<storage, read_write> dx: array<Stored>;

struct Taps { low: u32, high: u32, t: f32 }

fn tapsOf(o: u32, scale: f32, size: u32) -> Taps {
  var source = f32(o) * scale;
  if (!CORNERS) { source = max(0.0, (f32(o) + 0.5) * scale - 0.5); }
  let low = min(u32(source), size - 1u);
  return Taps(low, min(low + 1u, size - 1u), source - f32(low));
}

fn weightOf(i: u32, taps: Taps) -> f32 {
  return select(0.0, 1.0 - taps.t, taps.low == i) + select(0.0, taps.t, taps.high == i);
}

struct Range { first: u32, last: u32 } // [first, last)

// Results that may use pixel i: source between i − 1 and i + 1, and one more each way for the rounding. The first and
// the last pixel also serve what lies beyond them.
fn resultsOver(i: u32, scale: f32, size: u32, count: u32) -> Range {
  if (scale <= 0.0) { return Range(0u, count); }
  var first = 0.0;
  if (i > 0u) { first = max(0.0, floor((f32(i) - 1.0) / scale) - 1.0); }
  if (!CORNERS && i > 0u) { first = max(0.0, floor((f32(i) - 0.5) / scale - 0.5) - 1.0); }
  var last = f32(count);
  if (i + 1u < size) { last = min(last, ceil((f32(i) + 1.5) / scale + 0.5) + 1.0); }
  return Range(u32(first), u32(last));
}

@compute @workgroup_size(WG)
fn resize(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  let line = i / p.OW;
  let plane = line / p.OH;
  if (plane >= p.N) { return; }
  let rows = tapsOf(line - plane * p.OH, p.scaleH, p.H);
  let columns = tapsOf(i - line * p.OW, p.scaleW, p.W);
  let low = (plane * p.H + rows.low) * p.W;
  let high = (plane * p.H + rows.high) * p.W;
  let top = (1.0 - columns.t) * f32(x[low + columns.low]) + columns.t * f32(x[low + columns.high]);
  let bottom = (1.0 - columns.t) * f32(x[high + columns.low]) + columns.t * f32(x[high + columns.high]);
  out[i] = Stored((1.0 - rows.t) * top + rows.t * bottom);
}

@compute @workgroup_size(WG)
fn resizeBackward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  let line = i / p.W;
  let plane = line / p.H;
  if (plane >= p.N) { return; }
  let h = line - plane * p.H;
  let w = i - line * p.W;
  let rows = resultsOver(h, p.scaleH, p.H, p.OH);
  let columns = resultsOver(w, p.scaleW, p.W, p.OW);
  var sum = 0.0;
  for (var oh = rows.first; oh < rows.last; oh++) {
    let weight = weightOf(h, tapsOf(oh, p.scaleH, p.H));
    if (weight == 0.0) { continue; }
    var along = 0.0;
    for (var ow = columns.first; ow < columns.last; ow++) {
      let g = f32(dOut[(plane * p.OH + oh) * p.OW + ow]);
      along += weightOf(w, tapsOf(ow, p.scaleW, p.W)) * g;
    }
    sum += weight * along;
  }
  dx[i] = Stored(sum);
}
