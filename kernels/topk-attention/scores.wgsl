// topk-attention/scores — what the chosen scores of a query answer for: the softmax's gradient over TOP keys.
//
//   dOut [B, Nq, DV] · V [B, Nk, DV] · index, weight [B, TOP, Nq]  →  dS [B, TOP, Nq]        (CHANNEL: [B, DV, positions])
//   dP = dOut·V[index],  dS = scale·weight·(dP − Σ weight·dP)
//
// cost       2·B·Nq·TOP·DV flops;  reads as many numbers of V.
alias Stored = f32;

struct Params {
  B: u32,
  Nq: u32,
  Nk: u32,
  DV: u32,
  scale: f32,
}

const CHANNEL = true;
const TOP = 16u;
const WG = 16u;

@group(0) @binding(0) var<storage, read> dOut: array<Stored>;
@group(0) @binding(1) var<storage, read> v: array<Stored>;
@group(0) @binding(2) var<storage, read> index: array<u32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> dS: array<f32>;
var<immediate> p: Params;

// Where dim d of position n is, in a tensor of N positions.
fn place(batch: u32, n: u32, d: u32, N: u32) -> u32 {
  return select((batch * N + n) * p.DV + d, (batch * p.DV + d) * N + n, CHANNEL);
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let query = (group.y * groups.x + group.x) * WG + local;
  if (query >= p.B * p.Nq) { return; }
  let batch = query / p.Nq;
  let i = query % p.Nq;
  let first = batch * TOP * p.Nq + i;

  var key: array<u32, TOP>;
  for (var t = 0u; t < TOP; t++) {
    key[t] = index[first + t * p.Nq];
  }
  var dP: array<f32, TOP>;
  for (var e = 0u; e < p.DV; e++) {
    let g = f32(dOut[place(batch, i, e, p.Nq)]);
    for (var t = 0u; t < TOP; t++) {
      dP[t] = fma(g, f32(v[place(batch, key[t], e, p.Nk)]), dP[t]);
    }
  }
  var sum = 0.0;
  for (var t = 0u; t < TOP; t++) {
    sum = fma(weight[first + t * p.Nq], dP[t], sum);
  }
  for (var t = 0u; t < TOP; t++) {
    dS[first + t * p.Nq] = p.scale * weight[first + t * p.Nq] * (dP[t] - sum);
  }
}
