// layout/transpose_blocks — batched transpose; a thread turns a 4×4 block in its registers.
//
//   x [B, R, C] (strides ib, ir, 1)  →  out [B, C, R] (strides ob, oc, 1)
//
// since strided  reads and writes are vec4s on both sides; no workgroup memory, no barrier.
// cost       reads and writes n words.
// needs      R, C, offsets and strides to be multiples of 4.
alias Stored = u32;
const WG = 64u;

struct Params {
  B: u32, R: u32, C: u32,
  ib: u32, ir: u32, ob: u32, oc: u32,
  iOffset: u32, oOffset: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<Stored>>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let t = (group.y * groups.x + group.x) * WG + local;
  let across = p.C / 4u;
  let down = p.R / 4u;
  if (t >= p.B * across * down) { return; }
  let bc = t / down;
  let r = t - bc * down;
  let b = bc / across;
  let c = bc - b * across;
  let source = (p.iOffset + b * p.ib + 4u * r * p.ir) / 4u + c;
  let dest = (p.oOffset + b * p.ob + 4u * c * p.oc) / 4u + r;
  let s = p.ir / 4u;
  let d = p.oc / 4u;
  let r0 = x[source];
  let r1 = x[source + s];
  let r2 = x[source + 2u * s];
  let r3 = x[source + 3u * s];
  out[dest] = vec4<Stored>(r0.x, r1.x, r2.x, r3.x);
  out[dest + d] = vec4<Stored>(r0.y, r1.y, r2.y, r3.y);
  out[dest + 2u * d] = vec4<Stored>(r0.z, r1.z, r2.z, r3.z);
  out[dest + 3u * d] = vec4<Stored>(r0.w, r1.w, r2.w, r3.w);
}
