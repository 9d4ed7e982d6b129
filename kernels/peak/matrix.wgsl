// peak/matrix — how fast the device's tensor cores multiply f16 matrices into f32 sums, when no operand has to be fetched.
//
//   A [MM, MK] · B [MK, MN]  →  out [groups, SUBGROUPS, CHAINS, MM, MN], each loops times the product, plus its chain
//
// idea       a subgroup loads one A and one B, and adds their product to CHAINS sums in turn: a product waits for the one
//            before it in its chain, and the others hide its latency.
// check      small whole numbers add up exactly; chain c begins with c, or the chains would be one.
// cost       2·MM·MN·MK·CHAINS·loops flops a subgroup;  writes its sums.
// needs      subgroup matrices of f16 with f32 sums in these sizes, subgroups of LANES.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

const MM = 16u;
const MN = 16u;
const MK = 16u;
const LANES = 32u;
const SUBGROUPS = 4u;
const CHAINS = 8u;

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sums = subgroup_matrix_result<f32, MN, MM>;

struct Params { loops: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<f16>;
@group(0) @binding(1) var<storage, read> b: array<f16>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(SUBGROUPS * LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_id) subgroup: u32) {
  let left = subgroupMatrixLoad<Left, row_major>(&a, 0u, MK);
  let right = subgroupMatrixLoad<Right, row_major>(&b, 0u, MN);
  var sums: array<Sums, CHAINS>;
  for (var c = 0u; c < CHAINS; c++) {
    sums[c] = Sums(f32(c));
  }
  for (var i = 0u; i < p.loops; i++) {
    for (var c = 0u; c < CHAINS; c++) {
      sums[c] = subgroupMatrixMultiplyAccumulate(left, right, sums[c]);
    }
  }
  let first = (group.x * SUBGROUPS + subgroup) * CHAINS;
  for (var c = 0u; c < CHAINS; c++) {
    subgroupMatrixStore<row_major>(&out, (first + c) * MM * MN, sums[c], MN);
  }
}
