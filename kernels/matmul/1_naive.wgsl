// matmul/1_naive — one thread walks one row of A and one column of B.
//
//   A [batch, M, K] · B [batch, K, N]  →  out [batch, M, N], times alpha     (A [K, M] if TRANS_A, B [N, K] if TRANS_B)
//
// cost       2·M·N·K flops a batch; every output reads its 2·K operands again: 2·M·N·K floats.
// needs      nothing. strideA, strideB are elements from one batch to the next; 0 shares one matrix.
struct Params {
  M: u32,
  N: u32,
  K: u32,
  batch: u32,
  strideA: u32,
  strideB: u32,
  alpha: f32,
}

const TRANS_A = false;
const TRANS_B = false;
const WX = 8u;
const WY = 8u;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size(WX, WY)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y;
  let col = id.x;
  if (row >= p.M || col >= p.N) {
    return;
  }
  let base_a = id.z * p.strideA;
  let base_b = id.z * p.strideB;
  var sum = 0.0;
  for (var k = 0u; k < p.K; k++) {
    let i = select(row * p.K + k, k * p.M + row, TRANS_A);
    let j = select(k * p.N + col, col * p.K + k, TRANS_B);
    sum = fma(a[base_a + i], b[base_b + j], sum);
  }
  out[(id.z * p.M + row) * p.N + col] = p.alpha * sum;
}
