// layout/transpose_tile — batched transpose through a tile of workgroup memory.
//
//   x [B, R, C] (strides ib, ir, 1)  →  out [B, C, R] (strides ob, oc, 1)
//
// since strided  neighbouring threads read neighbouring words and write neighbouring words.
// grid       one workgroup a BT×BT tile; group.z is the batch.  The tile's rows are one word longer than BT, so that a
//            column of it falls into different banks.
// cost       reads and writes n words.
// needs      BT·(BT+1)·4 bytes of workgroup memory.
// after      Harris 2013, "An efficient matrix transpose in CUDA C/C++".
alias Stored = u32;
const BT = 32u;
const TY = 8u;

struct Params {
  B: u32, R: u32, C: u32,
  ib: u32, ir: u32, ob: u32, oc: u32,
  iOffset: u32, oOffset: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<Stored>;

var<workgroup> block: array<Stored, BT * (BT + 1u)>;

@compute @workgroup_size(BT, TY)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let c0 = group.x * BT;
  let r0 = group.y * BT;
  let source = p.iOffset + group.z * p.ib;
  let dest = p.oOffset + group.z * p.ob;
  for (var j = local.y; j < BT; j += TY) {
    let r = r0 + j;
    let c = c0 + local.x;
    var v = Stored(0);
    if (r < p.R && c < p.C) { v = x[source + r * p.ir + c]; }
    block[j * (BT + 1u) + local.x] = v;
  }
  workgroupBarrier(); // the tile is whole
  for (var j = local.y; j < BT; j += TY) {
    let c = c0 + j;
    let r = r0 + local.x;
    if (r < p.R && c < p.C) { out[dest + c * p.oc + r] = block[local.x * (BT + 1u) + j]; }
  }
}
