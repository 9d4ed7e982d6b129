// One chart: curves over steps, their values under the pointer, zoom, a logarithmic scale.
import { h, fill, short, whole } from './dom.js';
import { smoothed } from './groups.js';

/** @import { Alarm, Series } from '../data.ts' */
/** @typedef {{ label: string, colour: number, series: Series }} Curve */

const colours = 8;
const height = 220;
/** Below this each point has a mark, and none is smoothed. */
const fewPoints = 30;

/**
 * A chart under a title. `note` says what is on the axis.
 *
 * @param {{ title: string, note?: string | undefined }} what
 */
export function createChart({ title, note }) {
  let curves = /** @type {readonly Curve[]} */ ([]);
  let alarms = /** @type {readonly Alarm[]} */ ([]);
  let smoothing = 0;
  let logarithmic = false;
  let plot = /** @type {uPlot | undefined} */ (undefined);
  /** Names of the curves that are not to be seen. */
  const hidden = /** @type {Set<string>} */ (new Set());

  const scaleButton = h(
    'button',
    { type: 'button', class: 'small', 'aria-pressed': 'false', onclick: () => toggleScale() },
    'log',
  );
  scaleButton.setAttribute('aria-label', `Logarithmic scale of ${title}`);
  const canvas = h('div', { class: 'plot', tabindex: '0', role: 'group', onkeydown: onKey });
  const legend = h('ul', { class: 'legend' });
  const spoken = h('output', { class: 'unseen' });
  const head = h(
    'h3',
    {},
    title,
    note === undefined ? null : h('span', { class: 'note' }, ` ${note}`),
  );
  const element = h(
    'figure',
    { class: 'card chart', 'data-chart': title },
    h('div', { class: 'cardhead' }, head, scaleButton),
    canvas,
    legend,
    spoken,
  );

  function toggleScale() {
    logarithmic = !logarithmic;
    scaleButton.setAttribute('aria-pressed', String(logarithmic));
    draw();
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    if (plot === undefined) return;
    const steps = plot.data[0];
    const last = steps.length - 1;
    const at = plot.cursor.idx ?? last;
    const jump = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: at - jump, ArrowRight: at + jump, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const idx = Math.max(0, Math.min(last, to));
    plot.setCursor({ left: plot.valToPos(steps[idx] ?? 0, 'x'), top: plot.bbox.height / 2 });
    spoken.value = `step ${steps[idx]}: ${curves.map((c, i) => `${c.label} ${short(valueAt(i, idx))}`).join(', ')}`;
  }

  /**
   * @param {number} curve
   * @param {number} idx
   */
  function valueAt(curve, idx) {
    const steps = plot?.data[0];
    const values = plot?.data[1 + curve];
    if (steps === undefined || values === undefined) return null;
    // Curves of one chart may have points at different steps: the last one before counts.
    for (let i = idx; i >= 0; i--) if (typeof values[i] === 'number') return values[i] ?? null;
    return null;
  }

  function listValues() {
    const steps = plot?.data[0] ?? [];
    const idx = plot?.cursor.idx ?? null;
    const at = idx ?? steps.length - 1;
    const where = idx === null ? 'last' : `step ${whole(steps[at] ?? 0)}`;
    [...legend.children].forEach((item, i) => {
      const value = item.querySelector('.value');
      if (value !== null) value.textContent = i < curves.length ? short(valueAt(i, at)) : where;
    });
  }

  function listCurves() {
    const items = curves.map(({ label, colour }) => {
      const swatch = h('span', { class: 'swatch', 'data-colour': colour % colours });
      const button = h(
        'button',
        {
          type: 'button',
          'aria-pressed': String(!hidden.has(label)),
          title: `Show or hide ${label}`,
          onclick: () => {
            if (!hidden.delete(label)) hidden.add(label);
            button.setAttribute('aria-pressed', String(!hidden.has(label)));
            draw();
          },
        },
        swatch,
        label,
        h('span', { class: 'value' }),
      );
      return h('li', {}, button);
    });
    const where = h('li', { class: 'where' }, h('span', { class: 'value' }));
    fill(legend, ...items, where);
  }

  function describe() {
    const ends = curves.map(({ label, series }) => `${label} ${short(series.values.at(-1))}`);
    const steps = curves.flatMap(({ series }) => [series.steps[0] ?? 0, series.steps.at(-1) ?? 0]);
    const range = `steps ${Math.min(...steps)} to ${Math.max(...steps)}`;
    canvas.setAttribute(
      'aria-label',
      `${title}, ${range}, last ${ends.join(', ')}; arrow keys read values`,
    );
  }

  /**
   * Few points, as of evaluations, are to be seen as they are.
   *
   * @param {readonly (number | null)[]} values
   */
  const smoothedIfMany = (values) =>
    values.length < fewPoints ? values : smoothed(values, smoothing);

  /** All as columns over common steps: raw, and behind them smoothed where they are to be. */
  function table() {
    const raw = curves.map(({ series }) => series.values);
    const smooth = smoothing > 0 ? raw.map(smoothedIfMany) : [];
    const columns = [...raw, ...smooth].map((values, i) => {
      const steps = curves[i % curves.length]?.series.steps ?? [];
      return /** @type {uPlot.AlignedData} */ ([[...steps], [...values]]);
    });
    return columns.length === 0 ? /** @type {uPlot.AlignedData} */ ([[]]) : uPlot.join(columns);
  }

  /** @param {number} width */
  function options(width) {
    const styles = getComputedStyle(document.documentElement);
    const css = (/** @type {string} */ name) => styles.getPropertyValue(name).trim();
    const all = curves.flatMap(({ label, series }) => (hidden.has(label) ? [] : series.values));
    const positive = all.every((value) => value === null || value > 0);
    const axis = {
      stroke: css('--quiet'),
      font: '11px system-ui, sans-serif',
      grid: { stroke: css('--grid'), width: 1 },
      ticks: { show: false },
    };
    const line = (/** @type {Curve} */ curve, /** @type {boolean} */ faint) => ({
      label: curve.label,
      show: !hidden.has(curve.label),
      stroke: `${css(`--c${curve.colour % colours}`)}${faint ? '40' : ''}`,
      width: faint ? 1 : 1.75,
      ...(curve.colour >= colours && { dash: [6, 3] }),
      points: { show: curve.series.steps.length < fewPoints && !faint, size: 5 },
    });
    return /** @type {uPlot.Options} */ ({
      ...{ width, height },
      padding: [10, 20, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: 'steps', setSeries: false }, y: false, points: { size: 6 } },
      scales: { x: { time: false }, y: { distr: !logarithmic ? 1 : positive ? 3 : 4 } },
      axes: [
        {
          ...axis,
          size: 28,
          values: (_u, ticks) => ticks.map((t) => (Number.isInteger(t) ? whole(t) : '')),
        },
        {
          ...axis,
          size: 54,
          values: (_u, ticks) => ticks.map((t) => (t === null ? null : short(t))),
        },
      ],
      series: [
        {},
        ...curves.map((curve) => line(curve, smoothing > 0)),
        ...(smoothing > 0 ? curves.map((curve) => line(curve, false)) : []),
      ],
      hooks: { setCursor: [listValues], drawClear: [(u) => drawAlarms(u, css('--alarm'))] },
    });
  }

  /**
   * @param {uPlot} u
   * @param {string} colour
   */
  function drawAlarms(u, colour) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = colour;
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    for (const { step } of alarms) {
      const x = u.valToPos(step, 'x', true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  function draw() {
    plot?.destroy();
    plot = undefined;
    const width = canvas.clientWidth;
    if (width === 0 || curves.length === 0) return;
    plot = new uPlot(options(width), table(), canvas);
    listValues();
  }

  /**
   * New points of the same curves: where the reader looks closer, or points at, stays.
   *
   * @param {uPlot} u
   */
  function refresh(u) {
    const steps = u.data[0];
    const { min, max } = u.scales['x'] ?? {};
    // Scales are there only once it has been drawn.
    const all = typeof min !== 'number' || (min === steps[0] && max === steps.at(-1));
    u.setData(table(), all);
    if (!all) u.redraw();
    listValues();
  }

  new ResizeObserver(() => {
    if (plot === undefined) draw();
    else if (plot.width !== canvas.clientWidth) plot.setSize({ width: canvas.clientWidth, height });
  }).observe(canvas);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);

  return {
    element,
    /**
     * Shows other curves, or the same ones with more points.
     *
     * @param {{ curves: readonly Curve[], alarms?: readonly Alarm[], smoothing: number }} now
     */
    show(now) {
      const names = (/** @type {readonly Curve[]} */ list) =>
        list.map(({ label, colour }) => `${label} ${colour}`).join('\n');
      const same = names(curves) === names(now.curves);
      const wasSmooth = smoothing > 0;
      curves = now.curves;
      alarms = now.alarms ?? [];
      smoothing = now.smoothing;
      if (!same) listCurves();
      describe();
      if (same && plot !== undefined && smoothing > 0 === wasSmooth) refresh(plot);
      else draw();
    },
  };
}
