// Where a point of a sample looks: the picture to point at, and a map for each layer and head.
import { fill, h } from './dom.js';

/** @import { Attention, AttentionLayer } from '../data.ts' */

const pictureSide = 320;
const mapSide = 190;

/** @param {string} text Base64. */
function bytesOf(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

/** Attention maps: a click, or the arrow keys, choose the point. */
export function createAttention() {
  let attention = /** @type {Attention | null} */ (null);
  let images = /** @type {HTMLImageElement[]} */ ([]);
  let maps = /** @type {Uint8Array[]} */ ([]);
  let sample = 0;
  /** The point, in shares of the picture's sides. */
  let point = { y: 0.5, x: 0.5 };

  const picture = h('canvas', {
    ...{ class: 'point', width: pictureSide, height: pictureSide, tabindex: '0' },
    role: 'application',
    'aria-roledescription': 'picture to point at',
    onclick: (/** @type {MouseEvent} */ event) => {
      const box = picture.getBoundingClientRect();
      look((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width);
    },
    onkeydown: onKey,
  });
  const samples = h('div', { class: 'thumbs', role: 'group', 'aria-label': 'Samples' });
  const said = h('output', { class: 'caption' });
  const list = h('div', { class: 'maps' });
  const when = h('span', { class: 'note' });
  const element = h(
    'section',
    { class: 'card attention', 'aria-label': 'Attention maps' },
    h('div', { class: 'cardhead' }, h('h2', {}, 'Where a point looks'), when),
    h(
      'div',
      { class: 'looking' },
      h(
        'div',
        {},
        picture,
        said,
        samples,
        h('p', { class: 'note' }, 'Click a point, or move it with the arrow keys.'),
      ),
      list,
    ),
  );

  /** The grid that the arrow keys walk: the finest. */
  function finest() {
    const sides = attention?.layers.map(({ queries }) => queries) ?? [];
    return sides.reduce((a, b) => (b[0] * b[1] > a[0] * a[1] ? b : a), sides[0] ?? [1, 1]);
  }

  /**
   * The row and column of a grid that the point lies in.
   *
   * @param {readonly [number, number]} grid
   */
  function cellIn([rows, columns]) {
    const within = (/** @type {number} */ share, /** @type {number} */ n) =>
      Math.max(0, Math.min(n - 1, Math.floor(share * n)));
    return { row: within(point.y, rows), column: within(point.x, columns) };
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (move === undefined) return;
    event.preventDefault();
    const [rows, columns] = finest();
    const { row, column } = cellIn([rows, columns]);
    const [down = 0, right = 0] = move;
    look((row + down + 0.5) / rows, (column + right + 0.5) / columns);
  }

  /**
   * @param {number} y
   * @param {number} x
   */
  function look(y, x) {
    if (y < 0 || y >= 1 || x < 0 || x >= 1) return;
    point = { y, x };
    draw();
  }

  /**
   * The map of the point: u8 [rows · columns of keys].
   *
   * @param {AttentionLayer} layer
   * @param {number} l
   * @param {number} head
   */
  function rowOf({ heads, queries, keys }, l, head) {
    const { row, column } = cellIn(queries);
    const length = keys[0] * keys[1];
    const query = row * queries[1] + column;
    const from = ((sample * heads + head) * queries[0] * queries[1] + query) * length;
    return maps[l]?.subarray(from, from + length) ?? new Uint8Array(length);
  }

  function draw() {
    if (attention === null) return;
    drawPicture();
    [...samples.children].forEach((button, i) => {
      button.setAttribute('aria-pressed', String(i === sample));
    });
    let place = 0;
    const most = /** @type {string[]} */ ([]);
    attention.layers.forEach((layer, l) => {
      for (let head = 0; head < layer.heads; head++) {
        const canvas = list.querySelectorAll('canvas')[place++];
        const row = rowOf(layer, l, head);
        if (canvas !== undefined) drawMap(canvas, row, layer.keys);
        if (head > 0) continue;
        const peak = row.indexOf(255);
        const [y, x] = [Math.floor(peak / layer.keys[1]), peak % layer.keys[1]];
        if (peak >= 0) most.push(`${layer.name}: row ${y + 1}, column ${x + 1}`);
      }
    });
    const [rows, columns] = finest();
    const { row, column } = cellIn([rows, columns]);
    const at = `Row ${row + 1}, column ${column + 1} of ${rows}×${columns}`;
    said.value = at;
    picture.setAttribute(
      'aria-label',
      `Sample ${sample + 1}. ${at} looks most at ${most.join('; ')}`,
    );
  }

  function drawPicture() {
    const context = picture.getContext('2d');
    const image = images[sample];
    if (context === null || image === undefined) return;
    const side = pictureSide;
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, side, side);
    context.drawImage(image, 0, 0, side, side);
    const [rows, columns] = finest();
    const { row, column } = cellIn([rows, columns]);
    const [w, tall] = [side / columns, side / rows];
    for (const [colour, width] of /** @type {const} */ ([
      ['#000', 5],
      ['#fff', 2.5],
    ])) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(column * w, row * tall, w, tall);
    }
  }

  /**
   * A sample in the dark, lit where the point looks.
   *
   * @param {HTMLCanvasElement} canvas
   * @param {Uint8Array} row
   * @param {readonly [number, number]} keys
   */
  function drawMap(canvas, row, [height, width]) {
    const context = canvas.getContext('2d');
    const image = images[sample];
    if (context === null || image === undefined) return;
    const side = canvas.width;
    const heat = new OffscreenCanvas(width, height);
    const pixels = new ImageData(width, height);
    row.forEach((value, i) => {
      pixels.data.set([255, 150 + value * 0.35, 40 + value * 0.3, value * 0.9], 4 * i);
    });
    heat.getContext('2d')?.putImageData(pixels, 0, 0);
    context.globalAlpha = 1;
    context.fillStyle = '#101418';
    context.fillRect(0, 0, side, side);
    context.globalAlpha = 0.4;
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, side, side);
    context.globalAlpha = 1;
    context.imageSmoothingEnabled = true;
    context.drawImage(heat, 0, 0, side, side);
    const { x, y } = point;
    context.fillStyle = '#fff';
    context.strokeStyle = '#000';
    context.beginPath();
    context.arc(x * side, y * side, 3.5, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }

  /** @param {Attention} now */
  function listMaps(now) {
    const figures = now.layers.flatMap(({ name, heads }) =>
      Array.from({ length: heads }, (_u, head) => {
        const title = heads > 1 ? `${name}, head ${head + 1}` : name;
        const canvas = h('canvas', { width: mapSide, height: mapSide, role: 'img' });
        canvas.setAttribute('aria-label', `Where the point looks in ${title}`);
        return h('figure', {}, canvas, h('figcaption', {}, title));
      }),
    );
    fill(list, ...figures);
    const thumbs = images.map((image, i) => {
      const button = h('button', { type: 'button', 'aria-label': `Sample ${i + 1}` }, image);
      button.addEventListener('click', () => {
        sample = i;
        draw();
      });
      return button;
    });
    fill(samples, ...thumbs);
  }

  return {
    element,
    /** @param {Attention | null} now */
    show(now) {
      element.hidden = now === null || now.layers.length === 0;
      if (now === null || now === attention) return;
      attention = now;
      sample = Math.min(sample, now.samples - 1);
      maps = now.layers.map((layer) => bytesOf(layer.maps));
      images = now.images.map((image) =>
        h('img', { src: `data:image/png;base64,${image}`, alt: '' }),
      );
      when.textContent = `step ${now.step}`;
      listMaps(now);
      void Promise.all(images.map((image) => image.decode())).then(draw, draw);
    },
  };
}
