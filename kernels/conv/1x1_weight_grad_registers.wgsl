// conv/1x1_weight_grad_registers — dW = Σ_n dY[n] · X[n]ᵀ, every sum in a register, four positions a step.
//
//   x [N, C, HW] · dy [N, K, HW]  →  parts [PARTS, stride], parts[z, (k, c)]; sum_parts adds them in fixed order
//   Part z adds up images z·chunk … (z + 1)·chunk - 1.
//
// idea       TM rows of dy (the same for the whole workgroup) meet TN rows of x; both are read as vec4 along the image.
// cost       2·N·HW·K·C flops; reads N·HW·K·C·(1/TM + 1/TN) floats.
// needs      HW % 4 = 0; no workgroup memory, no barrier: for software adapters.

const TM = 8u;
const TN = 4u;
const WG = 4u;
const FOLDED = false;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;

struct Params {
  N: u32,
  C: u32,
  K: u32,
  HW4: u32, // HW / 4
  chunk: u32, // images a part
  stride: u32,
}
var<immediate> p: Params;

// This workgroup's rows of dy, rows of x, part. FOLDED: the workgroups come in one row with the rows of dy outermost, so
// that those past the last one have rows past K.
fn tile_of(group: vec3u, groups: vec3u) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let down = (p.C + WG * TN - 1u) / (WG * TN);
  let parts = max((p.N + p.chunk - 1u) / p.chunk, 1u);
  return vec3u(i / (down * parts), i % down, i / down % parts);
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let tile = tile_of(group, groups);
  let m0 = tile.x * TM;
  let c0 = (tile.y * WG + local) * TN;
  // Rows past K and C read the last row again and are not stored.
  var row: array<u32, TM>;
  for (var i = 0u; i < TM; i++) {
    row[i] = min(m0 + i, p.K - 1u) * p.HW4;
  }
  var base: array<u32, TN>;
  for (var j = 0u; j < TN; j++) {
    base[j] = min(c0 + j, p.C - 1u) * p.HW4;
  }
  var acc: array<array<f32, TN>, TM>;

  let end = min((tile.z + 1u) * p.chunk, p.N);
  for (var n = tile.z * p.chunk; n < end; n++) {
    let xImage = n * p.C * p.HW4;
    let dyImage = n * p.K * p.HW4;
    for (var t = 0u; t < p.HW4; t++) {
      var b: array<vec4f, TN>;
      for (var j = 0u; j < TN; j++) {
        b[j] = x[xImage + base[j] + t];
      }
      for (var i = 0u; i < TM; i++) {
        let a = dy[dyImage + row[i] + t];
        for (var j = 0u; j < TN; j++) {
          acc[i][j] = fma(a.x, b[j].x, fma(a.y, b[j].y, fma(a.z, b[j].z, fma(a.w, b[j].w, acc[i][j]))));
        }
      }
    }
  }

  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN; j++) {
      if (m0 + i < p.K && c0 + j < p.C) {
        parts[tile.z * p.stride + (m0 + i) * p.C + c0 + j] = acc[i][j];
      }
    }
  }
}
