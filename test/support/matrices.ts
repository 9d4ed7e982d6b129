// Subgroup matrices in plain WGSL: what lets a driver that has none run the tensor-core kernels.
import { matrixFeatures } from '../../src/gpu/adapter.ts';
import { Gpu } from '../../src/gpu/device.ts';
import type { PipelineSpec } from '../../src/gpu/pipelines.ts';
import type { Dispatch } from '../../src/gpu/storage.ts';
import { openTestGpu } from './device.ts';
import { rollLoops } from './rolled.ts';

interface Matrix {
  readonly name: string;
  readonly kind: string;
  readonly component: string;
  readonly columns: string;
  readonly rows: string;
}

const aliasPattern = /^alias (\w+) = subgroup_matrix_(left|right|result)<(\w+), (\w+), (\w+)>;$/gm;
const loadPattern = /subgroupMatrixLoad<(\w+), (row_major|col_major)>\(&(\w+),/g;
const storePattern = /subgroupMatrixStore<(row_major|col_major)>\(&(\w+),/g;

/** Components in an element of a workgroup array; offsets and strides count elements. */
function widthOf(code: string, array: string): number {
  const element = new RegExp(`var<workgroup> ${array}: array<(\\w+)`).exec(code)?.[1];
  if (element === undefined) throw new Error(`no workgroup array ${array}`);
  return element.startsWith('vec4') ? 4 : 1;
}

/** Every way in which a kernel loads: a factor is emulated as (number of its way, offset, stride). */
function elementOf(code: string, ways: readonly string[]): string {
  const cases = ways.map((way, i) => {
    const [major = '', array = ''] = way.split(' ');
    const place = major === 'row_major' ? 'r * stride + c' : 'c * stride + r';
    const element = widthOf(code, array) === 4 ? `${array}[i >> 2u][i & 3u]` : `${array}[i]`;
    return `    case ${i}u: { let i = offset + ${place}; return f32(${element}); }`;
  });
  const widths = ways.map((way) => `${widthOf(code, way.split(' ')[1] ?? '')}u`);
  return `
fn emulated_element(m: vec3u, r: u32, c: u32) -> f32 {
  var widths = array<u32, ${ways.length}>(${widths.join(', ')});
  let offset = m.y * widths[m.x];
  let stride = m.z * widths[m.x];
  switch m.x {
${cases.join('\n')}
    default: { return 0.0; }
  }
}`;
}

function storer(code: string, sums: Matrix, way: string): string {
  const [major = '', array = ''] = way.split(' ');
  if (widthOf(code, array) !== 1) throw new Error(`${array}: sums are stored to an array of f32`);
  return `
fn store_${major}_${array}(offset: u32, m: ${sums.name}, stride: u32) {
  var sums = m;
  for (var i = 0u; i < ${sums.rows} * ${sums.columns} / LANES; i++) {
    let r = (i * LANES + emulated_lane) / ${sums.columns};
    let c = (i * LANES + emulated_lane) % ${sums.columns};
    ${array}[offset + ${major === 'row_major' ? 'r * stride + c' : 'c * stride + r'}] = sums[i];
  }
}`;
}

const multiplier = (left: Matrix, sums: Matrix): string => `
fn multiply_accumulate(l: vec3u, r: vec3u, m: ${sums.name}) -> ${sums.name} {
  var sums = m;
  for (var i = 0u; i < ${sums.rows} * ${sums.columns} / LANES; i++) {
    let row = (i * LANES + emulated_lane) / ${sums.columns};
    let col = (i * LANES + emulated_lane) % ${sums.columns};
    for (var k = 0u; k < ${left.columns}; k++) {
      sums[i] += emulated_element(l, row, k) * emulated_element(r, k, col);
    }
  }
  return sums;
}`;

/**
 * The same kernel without subgroups and their matrices. Threads come in groups of LANES by their index; each holds every
 * LANES-th of the sums, counted from the last, and stores just those: a barrier that is missing after a store is missed. A
 * factor is where it was loaded from, and is read when it is multiplied: a kernel must not overwrite it in between.
 * Products of two f16 are exact in f32, and sums are f32, as on tensor cores.
 */
export function emulateMatrices(source: string): string {
  const matrices = [...source.matchAll(aliasPattern)].map(
    ([, name = '', kind = '', component = '', columns = '', rows = '']) => ({
      ...{ name, kind, component, columns, rows },
    }),
  );
  if (matrices.length === 0) return source;
  const only = (kind: string): Matrix => {
    const [found, ...more] = matrices.filter((m) => m.kind === kind);
    if (found === undefined || more.length > 0) throw new Error(`one ${kind} matrix is emulated`);
    return found;
  };
  const [left, right, sums] = [only('left'), only('right'), only('result')];
  if (left.component !== 'f16' || right.component !== 'f16' || sums.component !== 'f32') {
    throw new Error('factors of f16 and sums of f32 are emulated');
  }
  const loads = [...new Set([...source.matchAll(loadPattern)].map((m) => `${m[2]} ${m[3]}`))];
  const stores = [...new Set([...source.matchAll(storePattern)].map((m) => `${m[1]} ${m[2]}`))];
  const code = source
    .replace(/^enable (subgroups|chromium_experimental_subgroup_matrix);\n/gm, '')
    .replace(aliasPattern, (_all, name: string, kind: string) =>
      kind === 'result'
        ? `alias ${name} = array<f32, ${sums.rows} * ${sums.columns} / LANES>;`
        : `alias ${name} = vec3u;`,
    )
    .replace(loadPattern, (_all, name: string, major: string, array: string) => {
      return `${name}(${loads.indexOf(`${major} ${array}`)}u,`;
    })
    .replace(storePattern, 'store_$1_$2(')
    .replaceAll('subgroupMatrixMultiplyAccumulate(', 'multiply_accumulate(')
    .replace(
      /\n {2}@builtin\(subgroup_id\) subgroup: u32,([^{]*)\{/g,
      '$1{\n  emulated_lane = LANES - 1u - thread % LANES;\n  let subgroup = thread / LANES;',
    );
  const leftOver = /subgroup_matrix|subgroupMatrix|subgroup_id/.exec(code);
  if (leftOver !== null) throw new Error(`${leftOver[0]} is not emulated`);
  const whole = [
    code,
    'var<private> emulated_lane: u32;',
    elementOf(source, loads),
    multiplier(left, sums),
    ...stores.map((way) => storer(source, sums, way)),
  ].join('\n');
  return rollLoops(whole);
}

const emulated = new Map<string, PipelineSpec>();

/** A device that says it has subgroup matrices, and gets plain WGSL in their place. */
class MatrixGpu extends Gpu {
  override readonly features: ReadonlySet<string> = new Set([
    ...this.device.features,
    ...matrixFeatures,
  ]);

  override launch(dispatch: Dispatch): void {
    const { spec } = dispatch;
    const hit = emulated.get(spec.key) ?? { ...spec, code: emulateMatrices(spec.code) };
    emulated.set(spec.key, hit);
    super.launch({ ...dispatch, spec: hit });
  }
}

/**
 * The device of this project's driver with subgroup matrices of f16 emulated, in subgroups of `lanes`; undefined where the
 * driver has no f16 at all.
 */
export async function openMatrixGpu(
  options: { lanes?: number; config?: string; most?: number } = {},
): Promise<MatrixGpu | undefined> {
  const { lanes = 16, config = 'f16→f32 16×16×16', most } = options;
  const { device, adapter, features } = await openTestGpu();
  if (!features.has('shader-f16')) return undefined;
  const limits =
    most === undefined
      ? adapter.limits
      : { ...adapter.limits, maxComputeWorkgroupsPerDimension: most };
  const claimed = {
    ...{ kind: 'discrete' as const, matrixConfigs: [config], limits },
    subgroupSizes: [lanes, lanes] as const,
    features: [...adapter.features, ...matrixFeatures],
  };
  return new MatrixGpu(device, { ...adapter, ...claimed }, { guard: true });
}
