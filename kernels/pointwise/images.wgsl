// pointwise/images — bytes of a picture become the numbers a network sees; a word of four bytes a thread.
//
//   bytes uint8 [n], four to a word, lowest first  →  out [n] = byte·(2/255) − 1, in [−1, 1]
//
// cost       2·n flops;  reads n bytes, writes n numbers.
alias Stored = f32;
const WG = 256u;

struct Params { n: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> bytes: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<Stored>>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  if (i < (p.n + 3u) / 4u) {
    let word = bytes[i];
    let four = vec4u(word, word >> 8u, word >> 16u, word >> 24u) & vec4u(0xffu);
    out[i] = vec4<Stored>(vec4f(four) * (2.0 / 255.0) - 1.0);
  }
}
