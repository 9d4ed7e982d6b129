// Everything about one run: where it stands, its pictures, charts, attention maps, options and machine.
import { createAttention } from './attention.js';
import { createCharts } from './charts.js';
import { duration, fill, h, short, whole } from './dom.js';
import { chartsOf, colourOf, headOf, labelOf } from './groups.js';
import { createPictures } from './pictures.js';

/** @import { Attention, Fact, RunData } from '../data.ts' */

/** What the states of a run are called. */
export const states = {
  finished: 'finished',
  running: 'running',
  stopped: 'stopped',
  written: 'as written',
};

/** Numbers worth a place at the top, by the heads of their keys. */
const figures = /** @type {const} */ ([
  ['imagesPerSecond', 'images/s'],
  ['pairsPerSecond', 'pairs/s'],
  ['fid', 'FID'],
  ['fd', 'FD'],
  ['kid', 'KID'],
  ['exact', 'exact'],
  ['lossD', 'loss D'],
  ['lossG', 'loss G'],
  ['loss', 'loss'],
]);
const mostFigures = 6;

/** The view of a run; `show` may be called again with what the run has become. */
export function createRun() {
  const head = h('header', { class: 'runhead' });
  const alarms = h('section', { class: 'alarms', 'aria-label': 'Alarms' });
  const pictures = createPictures();
  const charts = createCharts();
  const attention = createAttention();
  const tables = h('div', { class: 'tables' });
  const element = h(
    'div',
    { class: 'run' },
    ...[head, alarms],
    h('div', { class: 'columns' }, pictures.element, charts.element),
    ...[attention.element, tables],
  );

  return {
    element,
    /**
     * @param {RunData} run
     * @param {Attention | null} maps
     */
    show(run, maps) {
      fill(head, ...headOfRun(run));
      fill(alarms, ...alarmsOf(run));
      alarms.hidden = alarms.childElementCount === 0;
      pictures.show(run.tracks);
      charts.show(
        chartsOf(run.series).map(({ id, title, note, series }) => ({
          ...{ id, title, note, alarms: run.alarms },
          curves: series.map((one, i) => {
            const label = labelOf(one.key, series);
            return { label, colour: colourOf(label, i), series: one };
          }),
        })),
      );
      attention.show(maps);
      element.classList.toggle('plain', run.tracks.length === 0);
      fill(tables, tableOf('Options', run.config), tableOf('Machine', run.machine));
    },
  };
}

/**
 * @param {RunData} run
 * @returns {HTMLElement[]}
 */
function headOfRun({ name, state, series, config, made }) {
  const { step, steps, seconds, status } = state;
  const option = (/** @type {string} */ key) => config.find(([one]) => one === key)?.[1];
  const data = option('data')?.split(/[\\/]/).at(-1);
  const what = [option('preset') ?? option('task'), data].filter((one) => one !== undefined);
  const date = new Date(made).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
  const numbers = figures.flatMap(([key, title]) => {
    const found = series.find((one) => headOf(one.key) === key);
    const value = found?.values.findLast((one) => one !== null);
    return value === undefined ? [] : [figure(title, short(value))];
  });
  const part = steps === null ? [] : [meter(step / steps)];
  return [
    h(
      'div',
      { class: 'title' },
      h('h1', {}, name),
      h('span', { class: 'status', 'data-status': status }, states[status]),
      h('span', { class: 'note' }, [...what, date].join(' · ')),
    ),
    h(
      'dl',
      { class: 'figures' },
      figure('step', steps === null ? whole(step) : `${whole(step)} / ${whole(steps)}`),
      figure('trained for', duration(seconds)),
      ...numbers.slice(0, mostFigures),
    ),
    ...part,
  ];
}

/**
 * @param {string} title
 * @param {string} value
 */
function figure(title, value) {
  return h('div', {}, h('dt', {}, title), h('dd', {}, value));
}

/** @param {number} share */
export function meter(share) {
  const value = Math.max(0, Math.min(1, share));
  return h('progress', { max: '1', value: String(value), 'aria-label': 'Steps done' });
}

/**
 * @param {RunData} run
 * @returns {HTMLElement[]}
 */
function alarmsOf({ alarms, broken }) {
  const items = alarms.map(({ step, cause, text }) =>
    h('li', {}, h('b', {}, `Step ${whole(step)}${cause === '' ? '' : `, ${cause}`}: `), text),
  );
  const unread = broken.map((name) => h('li', {}, h('b', {}, `${name}: `), 'could not be read'));
  return items.length + unread.length === 0
    ? []
    : [h('h2', {}, 'Alarms'), h('ul', {}, ...items, ...unread)];
}

/**
 * @param {string} title
 * @param {readonly Fact[]} facts
 */
function tableOf(title, facts) {
  if (facts.length === 0) return null;
  const rows = facts.map(([name, value]) => figure(name, value));
  return h(
    'section',
    { class: 'card', 'aria-label': title },
    h('h2', {}, title),
    h('dl', { class: 'facts' }, ...rows),
  );
}
