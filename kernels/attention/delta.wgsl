// attention/delta — what the softmax of a query takes off its dP: one number a query, made before the backward passes.
//
//   out, dOut [B, Nq, DV]  →  delta [B, Nq] = Σ dOut·out over DV = Σ P·dP over the keys      (CHANNEL: [B, DV, Nq])
//
// cost       2·B·Nq·DV flops, 2·B·Nq·DV elements.
// after      Dao et al. 2022, appendix B.
alias Stored = f32;

struct Params {
  B: u32,
  Nq: u32,
  DV: u32,
}

const CHANNEL = true;
const WG = 64u;
// The workgroups come in a row, however it is cut over x, y and z.
const FOLDED = false;

@group(0) @binding(0) var<storage, read> out: array<Stored>;
@group(0) @binding(1) var<storage, read> dOut: array<Stored>;
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let query = ((group.z * groups.y + group.y) * groups.x + group.x) * WG + local;
  if (query >= p.B * p.Nq) {
    return;
  }
  let start = select(query * p.DV, query / p.Nq * p.DV * p.Nq + query % p.Nq, CHANNEL);
  let step = select(1u, p.Nq, CHANNEL);
  var sum = 0.0;
  for (var e = 0u; e < p.DV; e++) {
    sum = fma(f32(out[start + e * step]), f32(dOut[start + e * step]), sum);
  }
  delta[query] = sum;
}
