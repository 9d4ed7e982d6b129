import type { Gpu } from '../gpu/device.ts';
import { ceilDiv } from '../util/shape.ts';
import { powerOfTwoAbove, splitTerms } from './split.ts';

/** How Wv is made: a row a thread, parts of rows a thread, or a row a workgroup that joins by a tree or by subgroups. */
export const spectralRungs = ['naive', 'parts', 'tree', 'subgroups'] as const;
export type SpectralRung = (typeof spectralRungs)[number];

/** A weight as a matrix of rows × (outer·inner): element (row, (a, b)) is w[(a·rows + row)·inner + b]. */
export interface MatrixSizes {
  readonly outer: number;
  readonly rows: number;
  readonly inner: number;
}

/** A matrix and where it, its u and its v begin, in elements of what is bound; multiples of 4. */
export interface PlacedMatrix extends MatrixSizes {
  readonly at: number;
  readonly u: number;
  readonly v: number;
}

/** The steps of a spectral norm, in the order of the table. */
export const stages = [
  'columns',
  'right',
  'rows',
  'left',
  'scale',
  'dot',
  'total',
  'grad',
] as const;
export type StageName = (typeof stages)[number];

/** One matrix in one stage: how its terms are cut, where its partial sums lie, and its first workgroup. */
interface LayerWork extends PlacedMatrix {
  readonly C0: number;
  readonly C1: number;
  readonly P1: number;
  readonly parts: number;
  readonly partAt: number;
  readonly first: number;
}

export interface StageWork {
  readonly layers: readonly LayerWork[];
  /** Workgroups of all matrices together, and threads of each. */
  readonly groups: number;
  readonly WG: number;
  /** Floats of partial sums. */
  readonly scratch: number;
  /** Every row can be read in vec4s. */
  readonly quads: boolean;
}

export interface MatrixWork {
  readonly rung: SpectralRung;
  readonly stages: Readonly<Record<StageName, StageWork>>;
}

export function stageOf(name: StageName): number {
  return stages.indexOf(name);
}

/** What one matrix asks of one stage. */
interface Share {
  readonly C0?: number;
  readonly C1?: number;
  readonly P1?: number;
  readonly parts?: number;
  readonly groups: number;
  /** Floats of partial sums. */
  readonly scratch?: number;
}

/** Work of a call, cut for the adapter. What a matrix's sums are made of does not depend on the others: same bits. */
export function matrixWork(
  gpu: Gpu,
  matrices: readonly PlacedMatrix[],
  rung: SpectralRung = chooseSpectral(gpu),
): MatrixWork {
  const software = gpu.adapter.kind === 'software';
  const quads = matrices.every(({ inner }) => inner % 4 === 0);
  const stage = (WG: number, share: (m: MatrixSizes) => Share): StageWork => {
    let [groups, scratch] = [0, 0];
    const layers = matrices.map((matrix) => {
      const { C0 = 0, C1 = 0, P1 = 1, parts = 1, ...mine } = share(matrix);
      const layer = { ...matrix, C0, C1, P1, parts, partAt: scratch, first: groups };
      groups += mine.groups;
      scratch += mine.scratch ?? 0;
      return layer;
    });
    return { layers, groups, WG, scratch, quads };
  };
  const finish = software ? 32 : 256;
  const columns = (m: MatrixSizes) => columnShare(m, software);
  const rows = (m: MatrixSizes) => rowShares[rung](m);
  const byGroup = rung === 'tree' || rung === 'subgroups';
  const dot = (m: MatrixSizes) => dotShare(m, software);
  const one = (share: (m: MatrixSizes) => Share) => (m: MatrixSizes) => ({
    ...share(m),
    groups: 1,
  });
  return {
    rung,
    stages: {
      columns: stage(64, columns),
      right: stage(finish, one(columns)),
      rows: stage(byGroup ? 256 : 16, rows),
      left: stage(finish, one(rows)),
      scale: stage(64, (m) => scaleShare(m, software)),
      dot: stage(dotThreads, dot),
      total: stage(finish, one(dot)),
      grad: stage(64, (m) => gradShare(m, { quads, software })),
    },
  };
}

export function chooseSpectral(gpu: Gpu): SpectralRung {
  return gpu.adapter.kind === 'software' ? 'parts' : 'tree';
}

const sizeOf = ({ outer, rows, inner }: MatrixSizes) => outer * rows * inner;

function columnShare({ outer, rows, inner }: MatrixSizes, software: boolean): Share {
  const cols = outer * inner;
  const units = inner % 4 === 0 ? cols / 4 : cols;
  const { C1, parts } = splitTerms({
    units,
    R0: 1,
    R1: rows,
    wanted: software ? 512 : 16384,
    fewestTerms: software ? 64 : 32,
  });
  return { C0: C1, parts, groups: ceilDiv(parts * units, 64), scratch: parts * cols };
}

function rowShare({ outer, rows, inner }: MatrixSizes): Share {
  const split = splitTerms({ units: rows, R0: outer, R1: inner, wanted: 512, fewestTerms: 256 });
  const terms = split.parts * rows;
  return { ...split, groups: ceilDiv(terms, 16), scratch: terms };
}

function naiveShare({ rows }: MatrixSizes): Share {
  return { groups: ceilDiv(rows, 16), scratch: rows };
}

function treeShare({ rows, inner }: MatrixSizes): Share {
  return { C1: Math.min(256, powerOfTwoAbove(inner)), groups: rows, scratch: rows };
}

const rowShares: Readonly<Record<SpectralRung, (m: MatrixSizes) => Share>> = {
  naive: naiveShare,
  parts: rowShare,
  tree: treeShare,
  subgroups: treeShare,
};

const dotThreads = 16;

function dotShare(matrix: MatrixSizes, software: boolean): Share {
  const quads = Math.max(1, Math.floor(sizeOf(matrix) / 4));
  const parts = Math.min(software ? 512 : 8192, ceilDiv(quads, 16));
  return {
    C0: ceilDiv(quads, parts),
    parts,
    groups: ceilDiv(parts, dotThreads),
    scratch: parts,
  };
}

/** A CPU's lanes walk a stretch each, and look their matrix up once for it. */
function scaleShare(matrix: MatrixSizes, software: boolean): Share {
  const C0 = software ? 16 : 1;
  return { C0, groups: ceilDiv(sizeOf(matrix), 4 * 64 * C0) };
}

/** A GPU's threads read neighbours; a CPU's lanes walk a stretch each, and divide once for it. */
function gradShare(
  { outer, rows, inner }: MatrixSizes,
  { quads, software }: { quads: boolean; software: boolean },
): Share {
  const units = quads ? inner / 4 : inner;
  const C0 = software ? Math.min(units, 16) : 1;
  return { C0, groups: ceilDiv(outer * rows * ceilDiv(units, C0), 64) };
}

/** A matrix's words but for its first workgroup, by the names of the immediates. */
export function layerWords({ at, u, v, outer, rows, inner, C0, C1, P1, parts, partAt }: LayerWork) {
  return { at, u, v, outer, rows, inner, C0, C1, P1, parts, partAt };
}

/** Words of a row of the table. */
export const layerSize = 12;

/** The table: stage by stage, a row a matrix. */
export function tableWords(work: MatrixWork): Uint32Array {
  return Uint32Array.from(
    stages.flatMap((name) =>
      work.stages[name].layers.flatMap((l) => [...Object.values(layerWords(l)), l.first]),
    ),
  );
}
