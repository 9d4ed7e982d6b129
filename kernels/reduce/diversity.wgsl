// reduce/diversity — how far made images lie from each other, by how far real ones do: 1 as far, 0 all the same.
//
//   real, fake [N, M]  →  out = √(Σ var(fake) / Σ var(real)),  var over the N images at each of the M pixels
//
// idea       the mean square of the distance of two different images of a batch is twice the sum of the pixels' variances:
//            the pairs need not be formed.
// entries    `spread`: a thread a pixel; a workgroup's sums of both go to part[group].  `ratio`: one workgroup joins them; 1
//            where the real images do not differ.
// cost       6·N·M flops;  reads 2·N·M numbers twice, the second time from the cache.
alias Stored = f32;
const WG = 64u;

struct Params { N: u32, M: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> real: array<Stored>;
@group(0) @binding(1) var<storage, read> fake: array<Stored>;
@group(0) @binding(2) var<storage, read_write> part: array<vec2f>;

@group(0) @binding(0) var<storage, read> spreads: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

var<workgroup> sums: array<vec2f, WG>;

fn sumOfAll(local: u32, value: vec2f) -> vec2f {
  sums[local] = value;
  for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier(); // the last round is in `sums`
    if (local < reach) { sums[local] += sums[local + reach]; }
  }
  return sums[0];
}

fn both(i: u32) -> vec2f {
  return vec2f(f32(real[i]), f32(fake[i]));
}

@compute @workgroup_size(WG)
fn spread(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let mine = group.y * groups.x + group.x;
  let pixel = mine * WG + local;
  var squares = vec2f(0.0);
  if (pixel < p.M) {
    var mean = vec2f(0.0);
    for (var image = 0u; image < p.N; image++) { mean += both(image * p.M + pixel); }
    mean /= f32(p.N);
    for (var image = 0u; image < p.N; image++) {
      let off = both(image * p.M + pixel) - mean;
      squares += off * off;
    }
  }
  let all = sumOfAll(local, squares);
  if (local == 0u && mine < (p.M + WG - 1u) / WG) { part[mine] = all; }
}

@compute @workgroup_size(WG)
fn ratio(@builtin(local_invocation_index) local: u32) {
  var sum = vec2f(0.0);
  for (var i = local; i < (p.M + WG - 1u) / WG; i += WG) { sum += spreads[i]; }
  let all = sumOfAll(local, sum);
  if (local == 0u) { out[0] = select(1.0, sqrt(all.y / all.x), all.x > 0.0); }
}
