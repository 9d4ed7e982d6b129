// conv/1x1_registers — a 1×1 convolution is a matrix product for each image: no window, no border, no tables.
//
//   forward     y[n]  [K, HW] = W [K, C] · x[n] [C, HW] (+ bias [K])
//   data grad   dx[n] [C, HW] = Wᵀ · dy[n] [K, HW] (+ bias [C])     TRANSPOSED
//   M rows come out, T are summed over. A column is four adjacent pixels of one image; columns run over the batch.
//
// idea       TM rows × TN columns of four sums stay in registers; a weight's address is the same for the whole workgroup.
// cost       2·N·M·T·HW flops; reads N·M·T·HW·(1/TM + 1/(4·TN)) floats.
// needs      HW % 4 = 0; no workgroup memory, no barrier: for software adapters.

const TM = 8u;
const TN = 2u;
const WG = 4u;
const TRANSPOSED = false;
const BIAS = false;
const FOLDED = false;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

struct Params {
  N: u32,
  M: u32,
  T: u32,
  HW4: u32, // HW / 4
}
var<immediate> p: Params;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  // FOLDED: the workgroups come in one row, rows of the product innermost.
  let line = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.M + TM - 1u) / TM;
  let m0 = select(group.x, line % across, FOLDED) * TM;
  let column0 = (select(group.z * groups.y + group.y, line / across, FOLDED) * WG + local) * TN;
  let columns = p.N * p.HW4;
  let step = select(1u, p.M, TRANSPOSED);

  var base: array<u32, TN>;
  var place: array<u32, TN>;
  for (var j = 0u; j < TN; j++) {
    let column = min(column0 + j, columns - 1u);
    let n = column / p.HW4;
    base[j] = n * p.T * p.HW4 + column % p.HW4;
    place[j] = n * p.M * p.HW4 + column % p.HW4;
  }
  // Rows past M read the last row again and are not stored.
  var row: array<u32, TM>;
  var acc: array<array<vec4f, TN>, TM>;
  for (var i = 0u; i < TM; i++) {
    let m = min(m0 + i, p.M - 1u);
    row[i] = select(m * p.T, m, TRANSPOSED);
    var start = 0.0;
    if (BIAS) {
      start = bias[m];
    }
    for (var j = 0u; j < TN; j++) {
      acc[i][j] = vec4f(start);
    }
  }

  for (var t = 0u; t < p.T; t++) {
    var b: array<vec4f, TN>;
    for (var j = 0u; j < TN; j++) {
      b[j] = x[base[j] + t * p.HW4];
    }
    for (var i = 0u; i < TM; i++) {
      let a = vec4f(w[row[i] + t * step]);
      for (var j = 0u; j < TN; j++) {
        acc[i][j] = fma(a, b[j], acc[i][j]);
      }
    }
  }

  for (var j = 0u; j < TN; j++) {
    if (column0 + j < columns) {
      for (var i = 0u; i < TM; i++) {
        if (m0 + i < p.M) {
          y[place[j] + (m0 + i) * p.HW4] = acc[i][j];
        }
      }
    }
  }
}
