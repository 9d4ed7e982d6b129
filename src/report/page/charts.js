// The charts of a page, with the smoothing that they share.
import { createChart } from './chart.js';
import { h } from './dom.js';

/** @import { Alarm } from '../data.ts' */
/** @import { Curve } from './chart.js' */
/** @typedef {{ id: string, title: string, note?: string | undefined, curves: Curve[], alarms: readonly Alarm[] }} ChartOf */

const usual = 0.6;

/** Charts in a grid, below a slider of smoothing. */
export function createCharts() {
  /** @type {Map<string, ReturnType<typeof createChart>>} */
  const charts = new Map();
  let shown = /** @type {readonly ChartOf[]} */ ([]);
  const value = h('output', {}, String(usual));
  const slider = h('input', {
    ...{ type: 'range', min: '0', max: '0.98', step: '0.02', value: String(usual) },
    oninput: () => {
      value.value = Number(slider.value).toFixed(2);
      draw();
    },
  });
  const grid = h('div', { class: 'charts' });
  const element = h(
    'section',
    { 'aria-label': 'Charts' },
    h('div', { class: 'toolbar' }, h('label', {}, h('span', {}, 'Smoothing'), slider, value)),
    grid,
  );

  function draw() {
    for (const { id, curves, alarms } of shown) {
      charts.get(id)?.show({ curves, alarms, smoothing: Number(slider.value) });
    }
  }

  return {
    element,
    /** @param {readonly ChartOf[]} now */
    show(now) {
      for (const id of [...charts.keys()].filter((id) => now.every((one) => one.id !== id))) {
        charts.get(id)?.element.remove();
        charts.delete(id);
      }
      for (const { id, title, note } of now) {
        if (!charts.has(id)) charts.set(id, createChart({ title, note }));
      }
      const elements = now.flatMap(({ id }) => charts.get(id)?.element ?? []);
      if (elements.some((one, i) => grid.children[i] !== one)) grid.replaceChildren(...elements);
      shown = now;
      draw();
    },
  };
}
