// pointwise/residual — a branch scaled by one learnt number and added to its shortcut, and the branch's two gradients.
//
//   `forward`:   o, x [n] · gamma [1]   →  out [n] = gamma·o + x
//   `backward`:  dy, o [n] · gamma [1]  →  dO [n] = gamma·dy,  part [parts] = Σ dy·o of a part of the vec4s
//
// grid       `forward`: a vec4 a thread.  `backward`: a part a thread, its `each` vec4s `parts` apart, so that
//            neighbouring threads read neighbouring values; padding past n is left out of the sums.
// cost       2·n and 3·n flops;  reads 2·n, writes n numbers.
// after      Zhang et al. 2019, equation 3.
alias Stored = f32;
const WG = 64u;

struct Params { n: u32, each: u32, parts: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> o: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<Stored>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<Stored>>;

@group(0) @binding(2) var<storage, read> dy: array<vec4<Stored>>;
@group(0) @binding(3) var<storage, read_write> dO: array<vec4<Stored>>;
@group(0) @binding(4) var<storage, read_write> part: array<f32>;

@compute @workgroup_size(WG)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) { out[i] = vec4<Stored>(gamma[0] * vec4f(o[i]) + vec4f(x[i])); }
}

@compute @workgroup_size(WG)
fn backward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  if (t >= p.parts) { return; }
  var sum = vec4f(0.0);
  for (var j = 0u; j < p.each; j++) {
    let i = j * p.parts + t;
    if (i < (p.n + 3u) / 4u) {
      let g = vec4f(dy[i]);
      dO[i] = vec4<Stored>(gamma[0] * g);
      let inside = vec4u(4u * i) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.n);
      sum += select(vec4f(0.0), g * vec4f(o[i]), inside);
    }
  }
  part[t] = sum.x + sum.y + (sum.z + sum.w);
}
