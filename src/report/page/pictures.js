// Pictures through time: a picture, and a slider over the steps.
import { fill, h, whole } from './dom.js';

/** @import { Track } from '../data.ts' */

const titles = { samples: 'Samples', clips: 'Clips', reconstructions: 'Reconstructions' };
const meanings = {
  samples: 'the same latents at every step',
  clips: 'the same latents at every step',
  reconstructions: 'originals, and beside them what the net makes of them',
};

/** The pictures of a run, one kind at a time. At the newest it stays with the newest. */
export function createPictures() {
  let tracks = /** @type {readonly Track[]} */ ([]);
  let kind = /** @type {Track['kind']} */ ('samples');
  /** Nobody has moved the slider back. */
  let following = true;

  const image = h('img', { class: 'grid', alt: '', decoding: 'sync' });
  const caption = h('output', { class: 'caption' });
  const slider = h('input', {
    ...{ type: 'range', min: '0', step: '1', 'aria-label': 'Step of the pictures' },
    oninput: () => {
      following = Number(slider.value) === Number(slider.max);
      draw();
    },
  });
  const play = h('button', { type: 'button', class: 'small', onclick: () => toggle() }, 'Play');
  const tabs = h('div', { class: 'tabs', role: 'group', 'aria-label': 'Kind of pictures' });
  const note = h('p', { class: 'note' });
  const element = h(
    'section',
    { class: 'card pictures', 'aria-label': 'Pictures through time' },
    h('div', { class: 'cardhead' }, h('h2', {}, 'Through time'), tabs),
    h('div', { class: 'frame' }, image),
    h('div', { class: 'scrub' }, play, slider),
    h('div', { class: 'cardhead' }, caption, note),
  );

  let timer = 0;
  function toggle() {
    if (timer !== 0) return pause();
    if (slider.value === slider.max) slider.value = '0';
    play.textContent = 'Pause';
    timer = setInterval(() => {
      if (slider.value === slider.max) return pause();
      slider.value = String(Number(slider.value) + 1);
      following = slider.value === slider.max;
      draw();
    }, 200);
  }
  function pause() {
    clearInterval(timer);
    timer = 0;
    play.textContent = 'Play';
  }

  const track = () => tracks.find((one) => one.kind === kind) ?? tracks[0];

  function draw() {
    const now = track();
    const picture = now?.pictures[Number(slider.value)];
    if (now === undefined || picture === undefined) return;
    if (image.getAttribute('src') !== picture.src) image.src = picture.src;
    const at = `step ${whole(picture.step)}`;
    image.alt = `${titles[now.kind]} after ${at}`;
    slider.setAttribute('aria-valuetext', at);
    caption.value = at;
    const part = now.pictures.length < now.all ? `; ${now.pictures.length} of ${now.all}` : '';
    note.textContent = `${meanings[now.kind]}${part}`;
  }

  function restart() {
    const pictures = track()?.pictures ?? [];
    const at = following
      ? pictures.length - 1
      : Math.min(Number(slider.value), pictures.length - 1);
    slider.max = String(Math.max(0, pictures.length - 1));
    slider.value = String(at);
    slider.disabled = play.disabled = pictures.length < 2;
    draw();
  }

  function listTabs() {
    const buttons = tracks.map((one) =>
      h(
        'button',
        {
          ...{ type: 'button', class: 'small', 'aria-pressed': String(one === track()) },
          onclick: () => {
            kind = one.kind;
            following = true;
            listTabs();
            restart();
          },
        },
        titles[one.kind],
      ),
    );
    fill(tabs, ...(buttons.length > 1 ? buttons : []));
  }

  return {
    element,
    /** @param {readonly Track[]} now */
    show(now) {
      const kinds = (/** @type {readonly Track[]} */ list) => list.map((one) => one.kind).join();
      const same = kinds(now) === kinds(tracks);
      // Who moves slowly on purpose is shown what stands still first.
      if (!same && now.some((one) => one.kind === 'clips')) {
        const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
        kind = still ? 'samples' : 'clips';
      }
      tracks = now;
      element.hidden = now.length === 0;
      if (!same) listTabs();
      restart();
    },
  };
}
