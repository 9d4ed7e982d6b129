// embedding/embedding — rows of a table by index, and the gradient of the table in the order of the indices.
//
//   `gather`:      table [classes, D] · index [count]  →  out [count, D];      one element a thread
//   `scatterAdd`:  dOut [count, D] · index [count]     →  dTable [classes, D]; a thread owns an element of the table
//                  and walks all indices in order, so that repeated ones add up to the same bits every time
//
// An index past the table gives zeros and no gradient: nothing is read or written outside, and nobody is told.
// cost       count·D copies; count·classes·D comparisons, at most count·D additions.
const WG = 64u;

struct Params { count: u32, classes: u32, D: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@group(0) @binding(0) var<storage, read> dOut: array<f32>;
@group(0) @binding(2) var<storage, read_write> dTable: array<f32>;

@compute @workgroup_size(WG)
fn gather(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i >= p.count * p.D) { return; }
  let row = i / p.D;
  let chosen = index[row];
  var v = 0.0;
  if (chosen < p.classes) { v = table[chosen * p.D + (i - row * p.D)]; }
  out[i] = v;
}

@compute @workgroup_size(WG)
fn scatterAdd(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i >= p.classes * p.D) { return; }
  let row = i / p.D;
  let d = i - row * p.D;
  var sum = 0.0;
  for (var n = 0u; n < p.count; n++) {
    if (index[n] == row) { sum += dOut[n * p.D + d]; }
  }
  dTable[i] = sum;
}
