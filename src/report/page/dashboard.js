// The page of many runs: a list to choose from, and one run in full or several against each other, live.
import { createCompare } from './compare.js';
import { fill, h, whole } from './dom.js';
import { createRun, meter, states } from './run.js';

/** @import { Attention, RunData, RunSummary } from '../data.ts' */
/** @typedef {{ version: number, data: RunData, maps: Attention | null }} Loaded */

let runs = /** @type {readonly RunSummary[]} */ ([]);
/** Ids of the chosen runs, with the number of the colour that each keeps while it is chosen. */
const chosen = /** @type {Map<string, number>} */ (new Map());
const loaded = /** @type {Map<string, Loaded>} */ (new Map());
let loading = false;

const single = createRun();
const compare = createCompare();
const live = h('span', { class: 'status', role: 'status' }, 'connecting');
const filter = h('input', {
  ...{ type: 'search', placeholder: 'Filter', 'aria-label': 'Filter runs by name' },
  oninput: listRuns,
});
const list = h('ul', { class: 'runs' });
const empty = h('p', { class: 'note' });
const view = h('div', { class: 'view' }, empty);
document
  .getElementById('page')
  ?.append(
    h(
      'div',
      { class: 'dashboard' },
      h(
        'nav',
        { class: 'aside', 'aria-label': 'Runs' },
        h('div', { class: 'cardhead' }, h('h1', {}, 'Runs'), live),
        filter,
        list,
      ),
      view,
    ),
  );

/** The colour with the lowest number that no chosen run has. */
function freeColour() {
  const taken = new Set(chosen.values());
  let colour = 0;
  while (taken.has(colour)) colour += 1;
  return colour;
}

/**
 * @param {string} id
 * @param {boolean} on
 */
function choose(id, on) {
  if (on) chosen.set(id, freeColour());
  else chosen.delete(id);
  history.replaceState(null, '', `#${[...chosen.keys()].join(',')}`);
  listRuns();
  void load();
}

function listRuns() {
  const wanted = filter.value.trim().toLowerCase();
  const shown = runs.filter(
    ({ id, name }) => chosen.has(id) || name.toLowerCase().includes(wanted),
  );
  const focused = document.activeElement?.id;
  fill(list, ...shown.map(itemOf));
  if (focused !== undefined && focused !== '') document.getElementById(focused)?.focus();
}

/** @param {RunSummary} run */
function itemOf({ id, name, step, steps, status, alarms }) {
  const box = h('input', { type: 'checkbox', id: `run-${id}` });
  const colour = chosen.get(id);
  box.checked = colour !== undefined;
  box.addEventListener('change', () => choose(id, box.checked));
  const warned = alarms === 0 ? '' : ` · ${alarms} ${alarms === 1 ? 'alarm' : 'alarms'}`;
  const of = steps === null ? '' : ` / ${whole(steps)}`;
  return h(
    'li',
    {},
    h(
      'label',
      {},
      box,
      h('span', { class: 'swatch', 'data-colour': colour === undefined ? 'none' : colour % 8 }),
      h('span', { class: 'name' }, name),
      h(
        'span',
        { class: 'note', 'data-status': status },
        `${states[status]} · ${whole(step)}${of}${warned}`,
      ),
      steps === null ? null : meter(step / steps),
    ),
  );
}

/** Fetches what changed of the chosen runs, one after the other, and shows it. */
async function load() {
  if (loading) return;
  loading = true;
  try {
    for (let again = true; again;) {
      again = false;
      for (const id of [...chosen.keys()]) {
        const version = runs.find((run) => run.id === id)?.version;
        if (version === undefined || loaded.get(id)?.version === version) continue;
        const data = await fetched(`/runs/${id}`);
        if (data === null) continue;
        loaded.set(id, { version, data, maps: await mapsOf(id, data) });
        again = true;
      }
      draw();
    }
  } finally {
    loading = false;
  }
}

/**
 * JSON of an address; null where it, or the server, went away.
 *
 * @param {string} address
 */
async function fetched(address) {
  try {
    const answer = await fetch(address);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/**
 * @param {string} id
 * @param {RunData} data
 * @returns {Promise<Attention | null>}
 */
async function mapsOf(id, { attention }) {
  if (typeof attention !== 'string') return attention;
  const known = loaded.get(id);
  return known?.data.attention === attention ? known.maps : fetched(attention);
}

function draw() {
  const ready = runs.flatMap(({ id }) => {
    const [found, colour] = [loaded.get(id), chosen.get(id)];
    return found === undefined || colour === undefined ? [] : [{ colour, ...found }];
  });
  const [first] = ready;
  empty.textContent = runs.length === 0 ? 'No runs yet.' : 'Choose a run, or several to compare.';
  const now = first === undefined ? empty : ready.length === 1 ? single.element : compare.element;
  if (view.firstElementChild !== now) fill(view, now);
  if (first === undefined) return;
  if (ready.length === 1) single.show(first.data, first.maps);
  else compare.show(ready);
}

/** At first: those of the address, or the one that was written to last. */
function chooseFirst() {
  const asked = location.hash.slice(1).split(',');
  const there = runs.filter(({ id }) => asked.includes(id)).map(({ id }) => id);
  const newest = [...runs].sort((a, b) => b.changed - a.changed)[0];
  const ids = there.length > 0 ? there : newest === undefined ? [] : [newest.id];
  for (const id of ids) chosen.set(id, freeColour());
}

const events = new EventSource('/events');
events.addEventListener('runs', (event) => {
  const first = runs.length === 0;
  runs = JSON.parse(event.data);
  if (first) chooseFirst();
  for (const id of chosen.keys()) if (runs.every((run) => run.id !== id)) chosen.delete(id);
  live.textContent = 'live';
  live.dataset['status'] = 'running';
  listRuns();
  void load();
});
events.addEventListener('error', () => {
  live.textContent = 'connection lost';
  live.dataset['status'] = 'stopped';
});
draw();
