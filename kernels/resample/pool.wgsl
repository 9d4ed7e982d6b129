// resample/pool — max and average pooling of planes, and their gradients as gathers: no atomics, one order.
//
//   `maxPool`:          x [N, H, W]            →  out [N, OH, OW], index [N, OH, OW] (place of the maximum in its plane)
//   `maxPoolBackward`:  dOut, index            →  dx: a pixel adds the windows over it that chose it
//   `maxPoolGather`:    x, index               →  out = x at index
//   `avgPool`:          x                      →  out, padding counted as zeros (COUNT_PAD) or not at all
//   `avgPoolBackward`:  dOut                   →  dx: a pixel adds its share of the windows over it
//
// Of equal values the first in row order wins, and NaN before every number, as in PyTorch. One element of the result a
// thread.
// cost       KERNEL²·|out| comparisons or flops, (KERNEL/STRIDE)²·|dx| for the gradients;  reads and writes once.
alias Stored = f32;
const KERNEL = 2u;
const STRIDE = 2u;
const COUNT_PAD = true;
const WG = 64u;

struct Params { N: u32, H: u32, W: u32, OH: u32, OW: u32, padding: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<Stored>;
@group(0) @binding(2) var<storage, read_write> indexOut: array<u32>;

@group(0) @binding(0) var<storage, read> dOut: array<Stored>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> dx: array<Stored>;

@group(0) @binding(2) var<storage, read_write> gathered: array<Stored>;
@group(0) @binding(1) var<storage, read_write> dxMean: array<Stored>;

struct Place { plane: u32, row: u32, column: u32, inside: bool }

fn placeOf(i: u32, rows: u32, columns: u32) -> Place {
  let line = i / columns;
  let plane = line / rows;
  return Place(plane, line - plane * rows, i - line * columns, plane < p.N);
}

struct Range { first: u32, last: u32 } // [first, last)

// Pixels of a window: those of the padding are left out.
fn windowOf(o: u32, size: u32) -> Range {
  let start = o * STRIDE;
  return Range(max(start, p.padding) - p.padding, min(max(start + KERNEL, p.padding) - p.padding, size));
}

// Windows over a pixel.
fn windowsOver(i: u32, count: u32) -> Range {
  let at = i + p.padding;
  let first = select(0u, (at - KERNEL) / STRIDE + 1u, at >= KERNEL);
  return Range(first, min(at / STRIDE + 1u, count));
}

// What a mean over a window divides by.
fn countOf(rows: Range, columns: Range) -> f32 {
  let inside = (rows.last - rows.first) * (columns.last - columns.first);
  return f32(select(inside, KERNEL * KERNEL, COUNT_PAD));
}

// By the bits: a compiler may take for granted that no float is NaN.
fn isNaN(v: f32) -> bool {
  return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
}

@compute @workgroup_size(WG)
fn maxPool(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  let at = placeOf(i, p.OH, p.OW);
  if (!at.inside) { return; }
  let rows = windowOf(at.row, p.H);
  let columns = windowOf(at.column, p.W);
  let base = at.plane * p.H * p.W;
  var place = rows.first * p.W + columns.first;
  var best = f32(x[base + place]);
  for (var h = rows.first; h < rows.last; h++) {
    for (var w = columns.first; w < columns.last; w++) {
      let v = f32(x[base + h * p.W + w]);
      if (isNaN(v) | ((v > best) & !isNaN(best))) {
        best = v;
        place = h * p.W + w;
      }
    }
  }
  out[i] = Stored(best);
  indexOut[i] = place;
}

@compute @workgroup_size(WG)
fn maxPoolBackward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  let at = placeOf(i, p.H, p.W);
  if (!at.inside) { return; }
  let rows = windowsOver(at.row, p.OH);
  let columns = windowsOver(at.column, p.OW);
  let own = at.row * p.W + at.column;
  var sum = 0.0;
  for (var oh = rows.first; oh < rows.last; oh++) {
    for (var ow = columns.first; ow < columns.last; ow++) {
      let o = (at.plane * p.OH + oh) * p.OW + ow;
      if (index[o] == own) { sum += f32(dOut[o]); }
    }
  }
  dx[i] = Stored(sum);
}

@compute @workgroup_size(WG)
fn maxPoolGather(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  let at = placeOf(i, p.OH, p.OW);
  if (at.inside) { gathered[i] = x[at.plane * p.H * p.W + index[i]]; }
}

@compute @workgroup_size(WG)
fn avgPool(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  let at = placeOf(i, p.OH, p.OW);
  if (!at.inside) { return; }
  let rows = windowOf(at.row, p.H);
  let columns = windowOf(at.column, p.W);
  let base = at.plane * p.H * p.W;
  var sum = 0.0;
  for (var h = rows.first; h < rows.last; h++) {
    for (var w = columns.first; w < columns.last; w++) { sum += f32(x[base + h * p.W + w]); }
  }
  out[i] = Stored(sum / countOf(rows, columns));
}

@compute @workgroup_size(WG)
fn avgPoolBackward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  let at = placeOf(i, p.H, p.W);
  if (!at.inside) { return; }
  let rows = windowsOver(at.row, p.OH);
  let columns = windowsOver(at.column, p.OW);
  var sum = 0.0;
  for (var oh = rows.first; oh < rows.last; oh++) {
    for (var ow = columns.first; ow < columns.last; ow++) {
      let d = f32(dOut[(at.plane * p.OH + oh) * p.OW + ow]);
      // Where all windows divide by the same, the sum does.
      if (COUNT_PAD) { sum += d; } else { sum += d / countOf(windowOf(oh, p.H), windowOf(ow, p.W)); }
    }
  }
  dxMean[i] = Stored(select(sum, sum / f32(KERNEL * KERNEL), COUNT_PAD));
}
