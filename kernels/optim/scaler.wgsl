// optim/scaler — the loss scale of training in f16: did a gradient overflow, and what comes of it.
//
//   `inspect`:  g [n]  →  flags[FOUND] = 1 where an element is infinite or NaN
//   `update`:   found:  scale ← scale·BACKOFF, good ← 0, skipped ← skipped + 1
//               else:   good ← good + 1, and at INTERVAL  scale ← scale·GROWTH, good ← 0;     then found ← 0
//
// grid       `inspect`: a vec4 a thread.  `update`: one thread, once a step, behind the optimiser.
// valid      g may be a row of tensors with gaps between them, which hold anything: valid[i] tells how many of the elements
//            128·i … 128·i + 127 are a tensor's.
// state      words as scalerIndex in src/kernels/optim.ts has them; the constants below repeat it, and a test compares.
// cost       reads n floats. The flag is only ever set to 1, so that the order of the threads does not show.
// after      torch.cuda.amp.GradScaler.
const SCALE = 0u;
const GOOD = 1u;
const FOUND = 2u;
const SKIPPED = 3u;
const GROWTH = 4u;
const BACKOFF = 5u;
const INTERVAL = 6u;

const WG = 256u;

struct Params { n: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> g: array<vec4f>;
@group(0) @binding(1) var<storage, read> valid: array<u32>;
@group(0) @binding(2) var<storage, read_write> flags: array<atomic<u32>>;

@group(0) @binding(0) var<storage, read_write> state: array<f32>;

@compute @workgroup_size(WG)
fn inspect(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    let place = vec4u((4u * i) % 128u) + vec4u(0u, 1u, 2u, 3u);
    let own = place < vec4u(valid[i / 32u]);
    // By the bits, since a compiler may take for granted that no float is infinite or NaN.
    let endless = (bitcast<vec4u>(g[i]) & vec4u(0x7f800000u)) == vec4u(0x7f800000u);
    if (any(own & endless)) { atomicStore(&flags[FOUND], 1u); }
  }
}

@compute @workgroup_size(1)
fn update() {
  if (bitcast<u32>(state[FOUND]) != 0u) {
    state[SCALE] *= state[BACKOFF];
    state[GOOD] = 0.0;
    state[SKIPPED] += 1.0;
  } else {
    state[GOOD] += 1.0;
    if (state[GOOD] >= state[INTERVAL]) {
      // The largest power of two that f32 holds is 2¹²⁷.
      state[SCALE] = min(state[SCALE] * state[GROWTH], 0x1p127);
      state[GOOD] = 0.0;
    }
  }
  state[FOUND] = 0.0;
}
