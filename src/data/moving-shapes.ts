import { UserError } from '../util/errors.ts';
import { HostRng } from '../util/philox.ts';
import type { Dataset } from './dataset.ts';
import { fingerprintOf } from './fingerprint.ts';
import { checkRead } from './memory.ts';

export const MOVING_SHAPES_DEFAULT_COUNT = 6000;
/** Part of the fingerprint: raise it when the drawing changes. */
const VERSION = 1;
/** Philox's key of the set, and its counter's last word. */
const SEED = 0;
const STREAM = 0x4d56;
const BACKGROUND = 16;

/** Distance of a point from the outline of a form about 0 that reaches 1 at most, or about as much; negative inside. */
const forms = {
  disc: (x: number, y: number) => Math.sqrt(x * x + y * y) - 1,
  square: (x: number, y: number) => Math.max(Math.abs(x), Math.abs(y)) - 0.85,
  /** Upright, its sides at 60 degrees. */
  triangle: (x: number, y: number) => Math.max(y - 0.6, (Math.sqrt(3) * Math.abs(x) - y) / 2 - 0.5),
} as const satisfies Record<string, (x: number, y: number) => number>;

const kinds = Object.keys(forms) as (keyof typeof forms)[];

export interface MovingShapesOptions {
  /** How many clips; clip i shows form i mod 3. */
  readonly n: number;
  readonly frames: number;
  readonly imageSize: number;
  readonly channels: 1 | 3;
}

/** What one clip shows; lengths in sides of a frame, times in frames. */
interface Shape {
  readonly form: keyof typeof forms;
  readonly radius: number;
  readonly start: readonly [x: number, y: number];
  readonly velocity: readonly [x: number, y: number];
  /** Red, green, blue, or grey, from 0 to 255. */
  readonly colour: readonly number[];
}

/**
 * Clips of a disc, a square or a triangle that flies evenly and bounces off the borders, bright on dark. Clip i is drawn
 * when it is read, from the random numbers of i alone: the same bytes in every call and on every machine, whatever n is.
 */
export function openMovingShapes(options: MovingShapesOptions): Dataset {
  const { n, frames, imageSize, channels } = options;
  if (!Number.isSafeInteger(n) || n < 1) {
    throw new UserError(`${n} clips of moving shapes; there must be one at least`);
  }
  const imageBytes = channels * frames * imageSize ** 2;
  const key = `v${VERSION} n${n} ${frames}x${imageSize}x${imageSize}x${channels}`;
  return {
    name: 'moving-shapes',
    description: `${n} clips of ${frames} frames: ${kinds.join('s, ')}s that fly and bounce`,
    size: n,
    channels,
    frames,
    imageSize,
    fingerprint: fingerprintOf(['moving-shapes', key]),
    classes: kinds,
    skipped: [],
    read: (indices, out) =>
      new Promise((resolve) => {
        checkRead(indices, out, { size: n, imageBytes });
        for (let i = 0; i < indices.length; i++) {
          const shape = shapeOf(indices[i] ?? 0, channels);
          draw(shape, out.subarray(i * imageBytes, (i + 1) * imageBytes), options);
        }
        resolve();
      }),
    label: (index) => index % kinds.length,
  };
}

function shapeOf(index: number, channels: 1 | 3): Shape {
  const rng = new HostRng(SEED, { stream: [index, STREAM] });
  const within = (low: number, high: number) => low + (high - low) * rng.uniform();
  const radius = within(0.14, 0.22);
  const speed = () => (rng.uniform() < 0.5 ? -1 : 1) * within(0.02, 0.1);
  return {
    form: kinds[index % kinds.length] ?? 'disc',
    radius,
    start: [within(radius, 1 - radius), within(radius, 1 - radius)],
    velocity: [speed(), speed()],
    colour: channels === 1 ? [within(150, 255)] : hue(6 * rng.uniform()),
  };
}

/** The bright colour of a hue from 0 to 6: red 0, green 2, blue 4. */
function hue(h: number): number[] {
  const distance = (from: number) => Math.min(Math.abs(h - from), 6 - Math.abs(h - from));
  return [0, 2, 4].map((from) => 40 + 215 * Math.min(1, Math.max(0, 2 - distance(from))));
}

/** Where something is that goes on evenly and bounces between low and high. */
function bounced(position: number, low: number, high: number): number {
  const way = 2 * (high - low);
  const along = (((position - low) % way) + way) % way;
  return low + Math.min(along, way - along);
}

/** Fills `out` [channels, frames, imageSize, imageSize]. An edge pixel is mixed by how much of it is covered. */
function draw(
  { form, radius, start, velocity, colour }: Shape,
  out: Uint8Array,
  { frames, imageSize: size }: MovingShapesOptions,
): void {
  const distance = forms[form];
  const plane = frames * size * size;
  // Whole pixels that the form may touch.
  const first = (centre: number) => Math.max(0, Math.floor((centre - radius) * size) - 1);
  const end = (centre: number) => Math.min(size, Math.ceil((centre + radius) * size) + 1);
  out.fill(BACKGROUND);
  for (let t = 0; t < frames; t++) {
    const place = (axis: 0 | 1) => bounced(start[axis] + t * velocity[axis], radius, 1 - radius);
    const [cx, cy] = [place(0), place(1)];
    for (let y = first(cy); y < end(cy); y++) {
      for (let x = first(cx); x < end(cx); x++) {
        const outside = distance(
          ((x + 0.5) / size - cx) / radius,
          ((y + 0.5) / size - cy) / radius,
        );
        const covered = Math.min(1, Math.max(0, 0.5 - outside * radius * size));
        for (const [c, level] of colour.entries()) {
          out[c * plane + (t * size + y) * size + x] = Math.round(
            BACKGROUND + covered * (level - BACKGROUND),
          );
        }
      }
    }
  }
}
