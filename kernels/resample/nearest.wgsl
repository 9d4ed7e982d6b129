// resample/nearest — every pixel four times, and the gradient: a pixel adds its four.
//
//   `upsample`:          x [N, H, W]         →  out [N, 2H, 2W];   one pair of neighbours a thread
//   `upsampleBackward`:  dOut [N, 2H, 2W]    →  dx [N, H, W];      one pixel a thread
//
// cost       4·n copies, 3·n flops;  reads n, writes 4·n numbers, and the other way round.
alias Stored = f32;
const WG = 64u;

struct Params { N: u32, H: u32, W: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> outPairs: array<vec2<Stored>>;

@group(0) @binding(0) var<storage, read> dOutPairs: array<vec2<Stored>>;
@group(0) @binding(1) var<storage, read_write> dx: array<Stored>;

@compute @workgroup_size(WG)
fn upsample(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i >= p.N * p.H * p.W) { return; }
  let line = i / p.W; // of x: lines 2·line and 2·line + 1 of out
  let at = 2u * line * p.W + (i - line * p.W);
  let pair = vec2<Stored>(x[i]);
  outPairs[at] = pair;
  outPairs[at + p.W] = pair;
}

@compute @workgroup_size(WG)
fn upsampleBackward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i >= p.N * p.H * p.W) { return; }
  let line = i / p.W;
  let at = 2u * line * p.W + (i - line * p.W);
  let both = vec2f(dOutPairs[at]) + vec2f(dOutPairs[at + p.W]);
  dx[i] = Stored(both.x + both.y);
}
