// Several runs: their newest pictures side by side, and each of their curves in one chart.
import { createCharts } from './charts.js';
import { fill, h, whole } from './dom.js';
import { chartsOf, labelOf } from './groups.js';

/** @import { RunData, Track } from '../data.ts' */
/** @typedef {{ data: RunData, colour: number }} Compared */

/** The view of some runs; `show` may be called again with what they have become. */
export function createCompare() {
  const sides = createSides();
  const charts = createCharts();
  const element = h('div', { class: 'run' }, sides.element, charts.element);

  return {
    element,
    /** @param {readonly Compared[]} runs */
    show(runs) {
      sides.show(runs);
      charts.show(
        chartsOf(unique(runs)).flatMap(({ id, title, note, series }) =>
          series.map(({ key }) => {
            const label = labelOf(key, series);
            const curves = runs.flatMap(({ data, colour }) => {
              const found = data.series.find((one) => one.key === key);
              return found === undefined ? [] : [{ label: data.name, colour, series: found }];
            });
            const full = series.length > 1 ? `${title}: ${label}` : title;
            return { id: `${id} ${key}`, title: full, note, curves, alarms: [] };
          }),
        ),
      );
    },
  };
}

/**
 * One series of each key that any of the runs has.
 *
 * @param {readonly Compared[]} runs
 */
function unique(runs) {
  const all = runs.flatMap(({ data }) => data.series);
  return [...new Map(all.map((one) => [one.key, one])).values()];
}

/** Pictures of each run next to each other, with one slider for the step of all. */
function createSides() {
  let runs = /** @type {readonly Compared[]} */ ([]);
  let steps = /** @type {number[]} */ ([]);
  let following = true;
  const caption = h('output', { class: 'caption' });
  const slider = h('input', {
    ...{ type: 'range', min: '0', step: '1', 'aria-label': 'Step of all pictures' },
    oninput: () => {
      following = slider.value === slider.max;
      draw();
    },
  });
  const cards = h('div', { class: 'sides' });
  const element = h(
    'section',
    { class: 'card', 'aria-label': 'Side by side' },
    h('div', { class: 'cardhead' }, h('h2', {}, 'Side by side'), caption),
    h('div', { class: 'scrub' }, slider),
    cards,
  );

  /**
   * The newest picture that is not newer than a step, or the first.
   *
   * @param {Track} track
   * @param {number} step
   */
  const pictureAt = (track, step) =>
    track.pictures.findLast((picture) => picture.step <= step) ?? track.pictures[0];

  function draw() {
    const step = steps[Number(slider.value)] ?? 0;
    caption.value = `up to step ${whole(step)}`;
    slider.setAttribute('aria-valuetext', `step ${step}`);
    [...cards.children].forEach((card, i) => {
      const track = runs[i]?.data.tracks[0];
      const image = card.querySelector('img');
      const said = card.querySelector('figcaption .note');
      const picture = track === undefined ? undefined : pictureAt(track, step);
      if (image === null || said === null) return;
      image.hidden = picture === undefined;
      said.textContent = picture === undefined ? 'no pictures' : `step ${whole(picture.step)}`;
      if (picture === undefined) return;
      if (image.getAttribute('src') !== picture.src) image.src = picture.src;
      image.alt = `Samples of ${runs[i]?.data.name ?? ''} after step ${picture.step}`;
    });
  }

  return {
    element,
    /** @param {readonly Compared[]} now */
    show(now) {
      const names = (/** @type {readonly Compared[]} */ list) =>
        list.map(({ data, colour }) => `${colour} ${data.name}`).join('\n');
      const same = names(now) === names(runs);
      const at = steps[Number(slider.value)] ?? 0;
      runs = now;
      steps = [
        ...new Set(now.flatMap(({ data }) => data.tracks[0]?.pictures.map((p) => p.step) ?? [])),
      ].sort((a, b) => a - b);
      element.hidden = steps.length === 0;
      slider.max = String(Math.max(0, steps.length - 1));
      const kept = Math.max(
        0,
        steps.findLastIndex((step) => step <= at),
      );
      slider.value = following ? slider.max : String(kept);
      if (!same) {
        const made = now.map(({ data, colour }) =>
          h(
            'figure',
            {},
            h('div', { class: 'frame' }, h('img', { alt: '' })),
            h(
              'figcaption',
              {},
              h('span', { class: 'swatch', 'data-colour': colour % 8 }),
              h('span', {}, data.name),
              h('span', { class: 'note' }),
            ),
          ),
        );
        fill(cards, ...made);
      }
      draw();
    },
  };
}
