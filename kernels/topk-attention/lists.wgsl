// topk-attention/lists — who chose each key: a counting sort of the pairs (t, query) by their key, stable and free of races.
//
//   `count`:   index [B, TOP, Nq]          →  counts [B, CHUNKS, Nk]: how often a chunk of the pairs chose a key
//   `before`:  counts                      →  counts: of earlier chunks;  start [B, Nk + 1]: of all chunks
//   `starts`:  start                       →  start: where the list of a key begins, and its end behind the last
//   `fill`:    index · counts, start       →  list [B, TOP·Nq]: the pairs t·Nq + query, those of a key side by side, in order
//   `mask`:    index [B, TOP, Nq]          →  bias [B, Nq, Nk]: 0 for a chosen key, lower than any score for the others
//
// A chunk of pairs has one thread, which is alone in its row of counts: the same lists every time, with no atomics.
// `mask` is for second derivatives, which go through plain ops and do store the map.
// cost       O(B·(TOP·Nq + CHUNKS·Nk)) steps;  as many words. `starts` is one thread a batch.
struct Params {
  B: u32,
  Nq: u32,
  Nk: u32,
}

const TOP = 16u;
const CHUNKS = 32u;
const WG = 64u;
// A chunk of pairs is a long way to go: few to a workgroup, so that they spread.
const WC = 8u;

@group(0) @binding(0) var<storage, read> index: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;

@group(0) @binding(0) var<storage, read_write> counted: array<u32>;
@group(0) @binding(1) var<storage, read_write> start: array<u32>;

@group(0) @binding(0) var<storage, read_write> lengths: array<u32>;

@group(0) @binding(2) var<storage, read> begun: array<u32>;
@group(0) @binding(3) var<storage, read_write> list: array<u32>;

@group(0) @binding(1) var<storage, read_write> bias: array<f32>;
var<immediate> p: Params;

fn thread_of(group: vec3u, groups: vec3u, each: u32, local: u32) -> u32 {
  return (group.y * groups.x + group.x) * each + local;
}

// First pair of a chunk and of the next.
fn chunk_of(c: u32) -> vec2u {
  let pairs = TOP * p.Nq;
  let each = (pairs + CHUNKS - 1u) / CHUNKS;
  return min(vec2u(c, c + 1u) * each, vec2u(pairs));
}

@compute @workgroup_size(WC)
fn count(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let thread = thread_of(group, groups, WC, local);
  if (thread >= p.B * CHUNKS) { return; }
  let row = thread * p.Nk;
  for (var j = 0u; j < p.Nk; j++) {
    counts[row + j] = 0u;
  }
  let pairs = thread / CHUNKS * TOP * p.Nq;
  let chunk = chunk_of(thread % CHUNKS);
  for (var n = chunk.x; n < chunk.y; n++) {
    counts[row + index[pairs + n]]++;
  }
}

@compute @workgroup_size(WG)
fn before(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let thread = thread_of(group, groups, WG, local);
  if (thread >= p.B * p.Nk) { return; }
  let batch = thread / p.Nk;
  let j = thread % p.Nk;
  var sum = 0u;
  for (var c = 0u; c < CHUNKS; c++) {
    let at = (batch * CHUNKS + c) * p.Nk + j;
    let n = counted[at];
    counted[at] = sum;
    sum += n;
  }
  start[batch * (p.Nk + 1u) + j] = sum;
}

@compute @workgroup_size(WC)
fn starts(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let batch = thread_of(group, groups, WC, local);
  if (batch >= p.B) { return; }
  let row = batch * (p.Nk + 1u);
  var sum = 0u;
  for (var j = 0u; j < p.Nk; j++) {
    let n = lengths[row + j];
    lengths[row + j] = sum;
    sum += n;
  }
  lengths[row + p.Nk] = sum;
}

@compute @workgroup_size(WC)
fn fill(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let thread = thread_of(group, groups, WC, local);
  if (thread >= p.B * CHUNKS) { return; }
  let batch = thread / CHUNKS;
  let row = thread * p.Nk;
  let pairs = batch * TOP * p.Nq;
  let chunk = chunk_of(thread % CHUNKS);
  for (var n = chunk.x; n < chunk.y; n++) {
    let j = index[pairs + n];
    list[pairs + begun[batch * (p.Nk + 1u) + j] + counts[row + j]] = n;
    counts[row + j]++;
  }
}

@compute @workgroup_size(WG)
fn mask(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let query = thread_of(group, groups, WG, local);
  if (query >= p.B * p.Nq) { return; }
  for (var j = 0u; j < p.Nk; j++) {
    bias[query * p.Nk + j] = -1e38;
  }
  for (var t = 0u; t < TOP; t++) {
    bias[query * p.Nk + index[(query / p.Nq * TOP + t) * p.Nq + query % p.Nq]] = 0.0;
  }
}
