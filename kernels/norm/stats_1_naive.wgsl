// norm/stats_1_naive — mean and squared deviations of a channel, a channel a thread, two looks at it.
//
//   x [N, C, L]  →  partMean, partM2 [1, C]      (M2 = Σ (x − mean)²)
//
// grid       C threads: most of a machine idles where there are few channels.
// exact      deviations are taken from the mean itself: the sum of squares less the squared sum would lose every digit
//            at a mean of 100.
// cost       4·n flops;  reads n numbers twice.
alias Stored = f32;
const WG = 16u;

struct Params { N: u32, C: u32, L: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> partMean: array<f32>;
@group(0) @binding(2) var<storage, read_write> partM2: array<f32>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let c = (group.y * groups.x + group.x) * WG + local;
  if (c >= p.C) { return; }
  var total = 0.0;
  for (var n = 0u; n < p.N; n++) {
    let row = (n * p.C + c) * p.L;
    var sum = 0.0;
    for (var i = 0u; i < p.L; i++) { sum += f32(x[row + i]); }
    total += sum;
  }
  let mean = total / f32(p.N * p.L);
  var m2 = 0.0;
  for (var n = 0u; n < p.N; n++) {
    let row = (n * p.C + c) * p.L;
    var sum = 0.0;
    for (var i = 0u; i < p.L; i++) {
      let d = f32(x[row + i]) - mean;
      sum += d * d;
    }
    m2 += sum;
  }
  partMean[c] = mean;
  partM2[c] = m2;
}
