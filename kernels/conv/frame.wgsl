// conv/frame — copies every plane into a frame of zeros (or crops it), so that a convolution need not test its borders.
//
//   x [planes, H, W]  →  out [planes, FH, FW],  out[·, i, j] = x[·, i - top, j - left], 0 outside
//
// cost       no flops; reads planes·H·W and writes planes·FH·FW floats.
// needs      nothing. One thread writes four adjacent floats; one division chain serves the four.

const WG = 256u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;

struct Params {
  planes: u32,
  H: u32,
  W: u32,
  FH: u32,
  FW: u32,
  top: u32,
  left: u32,
}
var<immediate> p: Params;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let quad = (group.y * groups.x + group.x) * WG + local;
  let first = quad * 4u;
  if (first < p.planes * p.FH * p.FW) {
    var j = first % p.FW;
    let line = first / p.FW;
    var i = line % p.FH;
    var plane = line / p.FH;
    var four = vec4f();
    for (var q = 0u; q < 4u; q++) {
      // Above and left of the image the unsigned differences wrap and fail the test.
      let h = i - p.top;
      let w = j - p.left;
      let inside = h < p.H && w < p.W && plane < p.planes;
      let value = x[select(0u, (plane * p.H + h) * p.W + w, inside)];
      four[q] = select(0.0, value, inside);
      j += 1u;
      if (j == p.FW) {
        j = 0u;
        i += 1u;
        if (i == p.FH) {
          i = 0u;
          plane += 1u;
        }
      }
    }
    out[quad] = four;
  }
}
