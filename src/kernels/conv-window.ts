/**
 * Where kernels/conv/4_window.wgsl reads and writes: for each of the three convolutions the frame round its operand, the
 * order of its packed weights, and the phases of its launches. Plain numbers; no GPU.
 */
import { ceilDiv } from '../util/shape.ts';
import type { ConvDims } from './conv-kernels.ts';
import { frameIfNeeded, phasePixels, phaseStrides, partsOf, partStride } from './conv-plan.ts';
import type { ConvKind, Frame } from './conv-plan.ts';

/** The words of WGSL's Phase, in its order. Offsets of x and u in vec4s, of out in floats. */
export const phaseWords = [
  ...['columns', 'n2', 'n3', 'width', 'x0', 'x1', 'x2', 'x3', 's1', 's2', 's3'],
  ...['xs1', 'xs2', 'xs3', 'u0', 'uM', 'us1', 'out0', 'outM', 'out1', 'out2', 'out3', 'out4'],
] as const;
type Phase = Readonly<Record<(typeof phaseWords)[number], number>>;

/** The constants that tell one launch's shader from another's. */
export interface WindowShape {
  readonly INNER: number;
  readonly VS: number;
  readonly IS: number;
  readonly SHIFT: number;
}

export interface WindowLaunch {
  readonly shape: WindowShape;
  readonly phases: Uint32Array;
  readonly phaseCount: number;
  /** The most columns of a phase, four values each. */
  readonly columns: number;
  /** Multiply-adds that the launch is for: none of its padding. */
  readonly work: number;
}

export interface WindowPlan {
  /** Rows of the product. */
  readonly M: number;
  /** Absent where an operand can be read as it lies. */
  readonly frameX: Frame | undefined;
  readonly frameU: Frame | undefined;
  /** Sources of the packed weights; absent where the weights can be read as they lie. */
  readonly pack:
    { readonly source: Uint32Array; readonly T: number; readonly rowStride: number } | undefined;
  readonly launches: readonly WindowLaunch[];
  /** Partial sums of each output, steps of each, floats from one to the next. */
  readonly parts: number;
  readonly chunk: number;
  readonly stride: number;
}

const unused = 0xffff_ffff;
const vectors = ({ SHIFT, VS, INNER, IS }: WindowShape) =>
  Math.floor((SHIFT + 3 * VS + (INNER - 1) * IS) / 4) + 1;

/** True for windows and strides whose pixels fit in a few registers. Wider ones have other kernels. */
export function windowServes(dims: ConvDims): boolean {
  const { R, S, strideW } = dims;
  return R * S > 1 && S <= 4 && strideW <= 4;
}

export function planWindow(kind: ConvKind, dims: ConvDims): WindowPlan {
  if (kind === 'forward') return planForward(dims);
  return kind === 'dataGrad' ? planDataGrad(dims) : planWeightGrad(dims);
}

function launchOf(shape: WindowShape, phases: readonly Phase[], work: number): WindowLaunch {
  const words = phases.flatMap((phase) => phaseWords.map((word) => phase[word]));
  return {
    shape,
    phases: Uint32Array.from(words),
    phaseCount: phases.length,
    columns: Math.max(...phases.map((phase) => phase.columns)),
    work,
  };
}

function planForward(d: ConvDims): WindowPlan {
  const { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW } = d;
  const quads = ceilDiv(OW, 4);
  const shape = { INNER: S, VS: strideW, IS: 1, SHIFT: 0 };
  const frameX = frameIfNeeded(
    { planes: N * C, H, W, top: padH, left: padW },
    { FH: (OH - 1) * strideH + R, FW: 4 * ((quads - 1) * strideW + vectors(shape)) },
  );
  const FW4 = frameX.FW / 4;
  const plane = frameX.FH * FW4;
  const T = C * R;
  const phase: Phase = {
    ...{ columns: N * OH * quads, n2: OH, n3: quads, width: OW },
    ...{ x0: 0, x1: C * plane, x2: strideH * FW4, x3: strideW },
    ...{ s1: C, s2: R, s3: 1, xs1: plane, xs2: FW4, xs3: 0 },
    ...{ u0: 0, uM: T, us1: R },
    ...{ out0: 0, outM: OH * OW, out1: K * OH * OW, out2: OW, out3: 4, out4: 1 },
  };
  const source = new Uint32Array(4 * T).map((_, i) =>
    i % 4 < S ? Math.floor(i / 4) * S + (i % 4) : unused,
  );
  return {
    M: K,
    frameX: frameX.frame,
    frameU: undefined,
    pack: S === 4 ? undefined : { source, T, rowStride: T * S },
    launches: [launchOf(shape, [phase], N * K * OH * OW * C * R * S)],
    ...whole(C * R),
  };
}

/** One part of all steps. */
const whole = (steps: number) => ({ parts: 1, chunk: Math.max(1, steps), stride: 0 });

/** One stride phase of a data gradient's axis: pixels first + stride·j read dy from start + j, through `taps` taps. */
function phasesOf(axis: { size: number; window: number; stride: number; pad: number }) {
  const { size, window, stride, pad } = axis;
  const phases = [];
  for (let a = 0; a < stride; a++) {
    const { first, count } = phasePixels(a, { size, stride, pad });
    if (count === 0) continue;
    const taps = a < window ? ceilDiv(window - a, stride) : 0;
    phases.push({
      a,
      first,
      count,
      taps,
      start: (first + pad - a) / stride - Math.max(0, taps - 1),
    });
  }
  const before = Math.max(0, ...phases.map(({ start }) => -start));
  return { phases, before };
}

function planDataGrad(d: ConvDims): WindowPlan {
  const { N, C, H, W, K, R, S, OH, OW } = d;
  const [strideH, strideW] = phaseStrides(d);
  const rows = phasesOf({ size: H, window: R, stride: strideH, pad: d.padH });
  const cols = phasesOf({ size: W, window: S, stride: strideW, pad: d.padW });
  const shapeOf = ({ taps, start }: { taps: number; start: number }): WindowShape => ({
    ...{ INNER: Math.max(1, taps), VS: 1, IS: 1 },
    SHIFT: (start + cols.before) % 4,
  });
  const frameX = frameIfNeeded(
    { planes: N * K, H: OH, W: OW, top: rows.before, left: cols.before },
    {
      FH: Math.max(
        1,
        ...rows.phases.map((row) => row.start + row.count + row.taps - 1 + rows.before),
      ),
      FW: Math.max(
        4,
        ...cols.phases.map((col) => {
          const first = Math.floor((col.start + cols.before) / 4);
          return 4 * (first + ceilDiv(col.count, 4) - 1 + vectors(shapeOf(col)));
        }),
      ),
    },
  );
  const FW4 = frameX.FW / 4;
  const plane = frameX.FH * FW4;
  const source: number[] = [];
  const groups = new Map<string, { shape: WindowShape; phases: Phase[]; work: number }>();
  for (const row of rows.phases) {
    for (const col of cols.phases) {
      const idle = row.taps * col.taps === 0;
      const shape = shapeOf(idle ? { ...col, taps: 1 } : col);
      const quads = ceilDiv(col.count, 4);
      const key = JSON.stringify(shape);
      const group = groups.get(key) ?? { shape, phases: [], work: 0 };
      groups.set(key, group);
      group.work += N * C * K * row.count * col.count * row.taps * col.taps;
      group.phases.push({
        ...{ columns: N * row.count * quads, n2: row.count, n3: quads, width: col.count },
        x0: (row.start + rows.before) * FW4 + Math.floor((col.start + cols.before) / 4),
        ...{ x1: K * plane, x2: FW4, x3: 1 },
        ...{ s1: idle ? 0 : K, s2: row.taps, s3: 1, xs1: plane, xs2: FW4, xs3: 0 },
        ...{ u0: source.length / 4, uM: 0, us1: row.taps },
        ...{ out0: row.first * W + col.first, outM: H * W, out1: C * H * W },
        ...{ out2: strideH * W, out3: 4 * strideW, out4: strideW },
      });
      for (let k = 0; k < (idle ? 0 : K); k++) {
        for (let i = row.taps - 1; i >= 0; i--) {
          for (let q = 0; q < 4; q++) {
            const r = row.a + i * strideH;
            const s = col.a + (col.taps - 1 - q) * strideW;
            source.push(q < col.taps ? (k * C * R + r) * S + s : unused);
          }
        }
      }
    }
  }
  if (source.length === 0) source.push(unused, unused, unused, unused);
  const T = source.length / 4;
  const launches = [...groups.values()].map(({ shape, phases, work }) =>
    launchOf(
      shape,
      phases.map((phase) => ({ ...phase, uM: T })),
      work,
    ),
  );
  return {
    M: C,
    frameX: frameX.frame,
    frameU: undefined,
    pack: { source: Uint32Array.from(source), T, rowStride: R * S },
    launches,
    ...whole(K * R),
  };
}

function planWeightGrad(d: ConvDims): WindowPlan {
  const { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW } = d;
  const quads = ceilDiv(OW, 4);
  const shape = { INNER: 4, VS: 1, IS: strideW, SHIFT: 0 };
  const frameX = frameIfNeeded(
    { planes: N * C, H, W, top: padH, left: padW },
    { FH: (OH - 1) * strideH + R, FW: 4 * ((quads - 1) * strideW + vectors(shape)) },
  );
  const frameU = frameIfNeeded(
    { planes: N * K, H: OH, W: OW, top: 0, left: 0 },
    { FH: OH, FW: 4 * quads },
  );
  const FW4 = frameX.FW / 4;
  const plane = frameX.FH * FW4;
  const phase: Phase = {
    ...{ columns: C * R, n2: R, n3: 1, width: S },
    ...{ x0: 0, x1: plane, x2: FW4, x3: 0 },
    ...{ s1: N, s2: OH, s3: quads, xs1: C * plane, xs2: strideH * FW4, xs3: strideW },
    ...{ u0: 0, uM: OH * quads, us1: K * OH * quads },
    ...{ out0: 0, outM: C * R * S, out1: R * S, out2: S, out3: 0, out4: 1 },
  };
  const steps = N * OH * quads;
  const outputs = K * C * R * S;
  const most = partsOf({
    units: ceilDiv(K, 16) * ceilDiv(C * R, 8),
    terms: steps,
    wanted: 16,
    fewest: 32,
    outputs,
  });
  const chunk = Math.max(1, ceilDiv(steps, most));
  return {
    M: K,
    frameX: frameX.frame,
    frameU: frameU.frame,
    pack: undefined,
    launches: [launchOf(shape, [phase], N * K * OH * OW * C * R * S)],
    parts: Math.max(1, ceilDiv(steps, chunk)),
    chunk,
    stride: partStride(outputs),
  };
}
