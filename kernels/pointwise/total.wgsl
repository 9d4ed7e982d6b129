// pointwise/total — two to four tensors of one shape added up in their order, as gradients meet; one vec4 a thread.
//
//   a, b, c, d [n]  →  out [n] = ((a + b) + c) + d, of the first COUNT
//
// cost       (COUNT − 1)·n flops;  reads COUNT·n, writes n numbers.
// needs      the caller binds any tensor in the place of a term past COUNT; it is not read.
alias Stored = f32;
const COUNT = 4u;
const WG = 256u;

struct Params { n: u32, count: u32 } // count: COUNT, for the cost
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<Stored>>;
@group(0) @binding(2) var<storage, read> c: array<vec4<Stored>>;
@group(0) @binding(3) var<storage, read> d: array<vec4<Stored>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<Stored>>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    var sum = vec4f(a[i]) + vec4f(b[i]);
    if (COUNT > 2u) { sum += vec4f(c[i]); }
    if (COUNT > 3u) { sum += vec4f(d[i]); }
    out[i] = vec4<Stored>(sum);
  }
}
