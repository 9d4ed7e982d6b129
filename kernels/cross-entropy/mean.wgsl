// cross-entropy/mean — the mean over the rows that count; one workgroup, for there is one number a row.
//
//   loss, labels [rows]  →  out [1] = share·Σ loss,  share [1] = 1/(rows that count);  both 0 where none does
//
// cost       2·rows flops;  reads 2·rows words.
// needs      WG·8 bytes of workgroup memory.
struct Params {
  rows: u32,
  classes: u32,
  ignore: u32,
}

const WG = 64u;

@group(0) @binding(0) var<storage, read> loss: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> share: array<f32>;

var<immediate> p: Params;

var<workgroup> sums: array<f32, WG>;
var<workgroup> counts: array<u32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32) {
  var sum = 0.0;
  var count = 0u;
  for (var row = local; row < p.rows; row += WG) {
    sum += loss[row];
    let label = labels[row];
    count += select(0u, 1u, label < p.classes && label != p.ignore);
  }
  sums[local] = sum;
  counts[local] = count;
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    workgroupBarrier(); // the last round is complete
    if (local < half) {
      sums[local] += sums[local + half];
      counts[local] += counts[local + half];
    }
  }
  if (local == 0u) {
    let n = max(1u, counts[0]);
    out[0] = sums[0] / f32(n);
    share[0] = select(0.0, 1.0 / f32(n), counts[0] > 0u);
  }
}
