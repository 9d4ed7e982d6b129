// layout/strided — moves words between two strided views: expand, permute, slice, concat, flip.
//
//   x (offset, strides i0…i3)  →  out (offset, strides o0…o3), both seen as [D0, D1, D2, D3]
//
// grid       ROWS = 1: group.x walks D3, group.yz the outer rows, whose divisions are then the same for a workgroup;
//            ROWS = 0 (a short D3): the threads walk the elements in a line.
// entries    `scalar`: one word a thread, any strides.  `quads`: one vec4 along D3 a thread, where D3, the offsets and
//            all outer strides are multiples of 4 and the inner strides are 1 (of x also 0: REPEAT).
// cost       reads and writes n words; bits are moved as they are, whatever the type.
alias Stored = u32;
const ROWS = 1u;
const REPEAT = false;
const WG = 64u;

struct Params {
  D0: u32, D1: u32, D2: u32, D3: u32,
  i0: i32, i1: i32, i2: i32, i3: i32,
  o0: i32, o1: i32, o2: i32, o3: i32,
  iOffset: i32, oOffset: i32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<Stored>;
@group(0) @binding(0) var<storage, read> xQuads: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read_write> outQuads: array<vec4<Stored>>;

struct Place { row: u32, column: u32, inside: bool }

fn placeOf(group: vec3u, groups: vec3u, local: u32, units: u32) -> Place {
  if (ROWS == 1u) {
    let row = group.z * groups.y + group.y;
    let column = group.x * WG + local;
    return Place(row, column, row < p.D0 * p.D1 * p.D2 && column < units);
  }
  let i = (group.y * groups.x + group.x) * WG + local;
  let row = i / units;
  return Place(row, i - row * units, row < p.D0 * p.D1 * p.D2);
}

// Where a row starts in x and in out.
fn startsOf(row: u32) -> vec2i {
  let r01 = row / p.D2;
  let r2 = i32(row - r01 * p.D2);
  let r0 = i32(r01 / p.D1);
  let r1 = i32(r01) - r0 * i32(p.D1);
  return vec2i(
    p.iOffset + r0 * p.i0 + r1 * p.i1 + r2 * p.i2,
    p.oOffset + r0 * p.o0 + r1 * p.o1 + r2 * p.o2,
  );
}

@compute @workgroup_size(WG)
fn scalar(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local, p.D3);
  if (at.inside) {
    let start = startsOf(at.row);
    let column = i32(at.column);
    out[start.y + column * p.o3] = x[start.x + column * p.i3];
  }
}

@compute @workgroup_size(WG)
fn quads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = placeOf(group, groups, local, p.D3 / 4u);
  if (at.inside) {
    let start = startsOf(at.row);
    let column = i32(at.column);
    var four: vec4<Stored>;
    if (REPEAT) {
      four = vec4<Stored>(xQuads[start.x / 4][start.x % 4]);
    } else {
      four = xQuads[start.x / 4 + column];
    }
    outQuads[start.y / 4 + column] = four;
  }
}
