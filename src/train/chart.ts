/** One curve: a name, a colour and its points. */
export interface Curve {
  readonly name: string;
  readonly colour: string;
  readonly points: readonly (readonly [number, number])[];
}

/** For the curves of a chart, in turn: they can be told apart on light and dark. */
export const curveColours: readonly string[] = ['#d1495b', '#2e86ab', '#8a9a3b', '#b0679f'];

const frame = { width: 720, height: 320, left: 56, right: 16, top: 36, bottom: 36 };

/** A line chart as a self-contained SVG, readable on light and dark pages. */
export function lineChart(title: string, curves: readonly Curve[], xLabel: string): string {
  const points = curves.flatMap((c) => c.points.filter(([x, y]) => Number.isFinite(x + y)));
  const xs = niceScale(points.map(([x]) => x));
  const ys = niceScale(points.map(([, y]) => y));
  const px = (x: number) =>
    frame.left + ((x - xs.low) / (xs.high - xs.low)) * (frame.width - frame.left - frame.right);
  const py = (y: number) =>
    frame.height -
    frame.bottom -
    ((y - ys.low) / (ys.high - ys.low)) * (frame.height - frame.top - frame.bottom);
  const grid = ys.ticks.map(
    (y) =>
      `<path class="grid" d="M${frame.left} ${fix(py(y))}H${frame.width - frame.right}"/>` +
      `<text x="${frame.left - 8}" y="${fix(py(y) + 4)}" text-anchor="end">${show(y)}</text>`,
  );
  const below = xs.ticks.map(
    (x) =>
      `<text x="${fix(px(x))}" y="${frame.height - frame.bottom + 18}" text-anchor="middle">${show(x)}</text>`,
  );
  const lines = curves.map((curve) => {
    const finite = curve.points.filter(([x, y]) => Number.isFinite(x + y));
    const path = finite.map(([x, y], i) => `${i === 0 ? 'M' : 'L'}${fix(px(x))} ${fix(py(y))}`);
    return `<path d="${path.join('')}" fill="none" stroke="${curve.colour}" stroke-width="1.5"/>`;
  });
  const legend = curves.map((curve, i) => {
    const x = frame.width - frame.right - (curves.length - i) * 96;
    return (
      `<rect x="${x}" y="14" width="12" height="3" fill="${curve.colour}"/>` +
      `<text x="${x + 18}" y="19">${curve.name}</text>`
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${frame.width} ${frame.height}" role="img" aria-label="${title}">
<style>text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#8884}.bg{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#ccc}.bg{fill:#161616}}</style>
<rect class="bg" width="${frame.width}" height="${frame.height}"/>
<text x="${frame.left}" y="20" font-weight="600">${title}</text>
${[...grid, ...below, ...lines, ...legend].join('\n')}
<text x="${frame.width / 2}" y="${frame.height - 4}" text-anchor="middle">${xLabel}</text>
</svg>
`;
}

/** Round bounds and about five round ticks round some values. */
function niceScale(values: readonly number[]): { low: number; high: number; ticks: number[] } {
  const min = values.reduce((a, b) => Math.min(a, b), Infinity);
  const max = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!(min <= max)) return { low: 0, high: 1, ticks: [0, 1] };
  const span = max > min ? max - min : Math.max(1, Math.abs(max));
  const power = 10 ** Math.floor(Math.log10(span / 5));
  const unit = [1, 2, 5, 10].map((m) => m * power).find((u) => span / u <= 6) ?? power * 10;
  const low = Math.floor(min / unit) * unit;
  const high = Math.max(low + unit, Math.ceil(max / unit) * unit);
  const ticks: number[] = [];
  for (let i = 0; low + i * unit <= high + unit / 2; i++) ticks.push(low + i * unit);
  return { low, high, ticks };
}

function fix(value: number): string {
  return value.toFixed(1);
}

function show(value: number): string {
  return String(Number(value.toPrecision(6)));
}
