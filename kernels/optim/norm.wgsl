// optim/norm — the length of all gradients of an optimiser as one vector: what tells a training that dies from one that explodes.
//
//   `parts`:   g [n]  →  part[at + i] = Σ g² over elements CHUNK·i … CHUNK·(i + 1) − 1,  CHUNK = 4·WG·QUADS
//   `finish`:  part [P]  →  norm = √(Σ part), divided by the loss scale where SCALED; 0 for a step that is left out
//
// grid       `parts`: a workgroup a chunk.  `finish`: one workgroup, once an update.
// valid      g may be a row of tensors with gaps between them, which hold anything: as in optim/scaler.
// scaler     words as in optim/scaler, which has looked at the gradients before.
// cost       2·n flops;  reads n floats.
// order      a thread's own elements first, then a tree over the workgroup: the same bits every time.
const SCALE = 0u;
const FOUND = 2u;

const SCALED = false;
const WG = 256u;
const QUADS = 8u;

struct Params { n: u32, at: u32, count: u32 } // count: the parts of this launch, or of all
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> g: array<vec4f>;
@group(0) @binding(1) var<storage, read> valid: array<u32>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;

@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read> scaler: array<f32>;
@group(0) @binding(2) var<storage, read_write> norm: array<f32>;

var<workgroup> sums: array<f32, WG>;

fn sumOfAll(local: u32, value: f32) -> f32 {
  sums[local] = value;
  for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier(); // the last round is in `sums`
    if (local < reach) { sums[local] += sums[local + reach]; }
  }
  return sums[0];
}

@compute @workgroup_size(WG)
fn parts(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let mine = group.y * groups.x + group.x;
  var sum = 0.0;
  for (var k = 0u; k < QUADS; k++) {
    let i = (mine * QUADS + k) * WG + local;
    if (i < (p.n + 3u) / 4u) {
      let place = vec4u((4u * i) % 128u) + vec4u(0u, 1u, 2u, 3u);
      let own = select(vec4f(0.0), g[i], place < vec4u(valid[i / 32u]));
      sum += dot(own, own);
    }
  }
  let all = sumOfAll(local, sum);
  if (local == 0u && mine < p.count) { part[p.at + mine] = all; }
}

@compute @workgroup_size(WG)
fn finish(@builtin(local_invocation_index) local: u32) {
  var sum = 0.0;
  for (var i = local; i < p.count; i += WG) { sum += partial[i]; }
  let length = sqrt(sumOfAll(local, sum));
  if (local == 0u) {
    norm[0] = length;
    if (SCALED) { norm[0] = select(length / scaler[SCALE], 0.0, bitcast<u32>(scaler[FOUND]) != 0u); }
  }
}
