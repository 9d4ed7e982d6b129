import { Option } from 'commander';
import sixel from 'sixel';
import { encodePng } from '../io/png.ts';
import type { Picture } from '../io/png.ts';
import { UserError } from '../util/errors.ts';
import { unknownWord } from '../util/nearest.ts';

/** Ways to show a picture in a terminal, the finest first. */
export const previewKinds = ['kitty', 'sixel', 'blocks'] as const;
export type PreviewKind = (typeof previewKinds)[number];

const words = ['auto', ...previewKinds] as const;

export const previewOption = () =>
  new Option(
    '--preview [how]',
    `show the newest grid in the terminal: ${words.join(', ')}; auto shows none where there is no terminal`,
  ).preset('auto');

/** What a terminal tells of itself. */
interface Terminal {
  readonly isTTY: boolean;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/** The terminal that this process writes to. */
export const terminal = (): Terminal => ({
  isTTY: process.stdout.isTTY,
  environment: process.env,
});

/**
 * The way in which pictures are to be shown; none where they are not, which is also what `auto` makes of an output that is no
 * terminal. Throws a `UserError` for a way that there is not.
 */
export function previewKind(
  asked: string | undefined,
  terminal: Terminal,
): PreviewKind | undefined {
  if (asked === undefined) return undefined;
  const known = previewKinds.find((kind) => kind === asked);
  if (known !== undefined) return known;
  if (asked !== 'auto') throw new UserError(`--preview ${unknownWord(asked, words)}`);
  return terminal.isTTY ? ownKind(terminal.environment) : undefined;
}

/** What the terminal can do, by the words in which it names itself; half blocks for one that is not known. */
function ownKind({ TERM = '', TERM_PROGRAM = '', KITTY_WINDOW_ID }: Terminal['environment']) {
  if (KITTY_WINDOW_ID !== undefined || /kitty|ghostty/i.test(TERM + TERM_PROGRAM)) return 'kitty';
  if (/sixel|mlterm|foot|contour|yaft/i.test(TERM)) return 'sixel';
  if (/wezterm|mintty|iterm/i.test(TERM_PROGRAM)) return 'sixel';
  return 'blocks';
}

/** Pixels to a side of what is shown by the finer ways. */
const largest = 768;
const escape = '\x1b';

/** A picture as text that a terminal of so many columns draws, without a line's end. */
export function previewText(kind: PreviewKind, picture: Picture, columns = 80): string {
  if (kind === 'blocks') return blocks(fitted(picture, columns));
  const small = fitted(picture, largest);
  return kind === 'kitty' ? kitty(encodePng(small.pixels, small)) : sixels(small);
}

/** The picture at most so wide, and as high at the finer ways, by means of the pixels that meet in one. */
function fitted(picture: Picture, most: number): Picture {
  const { width, height, channels } = picture;
  const factor = Math.max(1, Math.ceil(width / most));
  if (factor === 1) return picture;
  const [w, h] = [Math.ceil(width / factor), Math.ceil(height / factor)];
  const pixels = new Uint8Array(w * h * channels);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      for (let c = 0; c < channels; c++) {
        pixels[(y * w + x) * channels + c] = meanOf(picture, { x, y, c, factor });
      }
    }
  }
  return { pixels, width: w, height: h, channels };
}

function meanOf(
  { pixels, width, height, channels }: Picture,
  { x, y, c, factor }: Readonly<Record<'x' | 'y' | 'c' | 'factor', number>>,
): number {
  let [sum, count] = [0, 0];
  for (let row = y * factor; row < Math.min(height, (y + 1) * factor); row++) {
    for (let column = x * factor; column < Math.min(width, (x + 1) * factor); column++) {
      sum += pixels[(row * width + column) * channels + c] ?? 0;
      count += 1;
    }
  }
  return Math.round(sum / count);
}

/** Red, green and blue of a pixel; none behind the last row. */
function colourAt({ pixels, width, height, channels }: Picture, x: number, y: number) {
  if (y >= height) return undefined;
  const at = (y * width + x) * channels;
  const first = pixels[at] ?? 0;
  return channels === 1 ? [first, first, first] : [first, pixels[at + 1] ?? 0, pixels[at + 2] ?? 0];
}

/** Two rows of pixels to a line of text: the upper one is the colour of the half block, the lower one that behind it. */
function blocks(picture: Picture): string {
  const lines: string[] = [];
  for (let y = 0; y < picture.height; y += 2) {
    let [line, before] = ['', ''];
    for (let x = 0; x < picture.width; x++) {
      const [upper, lower] = [colourAt(picture, x, y), colourAt(picture, x, y + 1)];
      const behind = lower === undefined ? '49' : `48;2;${lower.join(';')}`;
      const colours = `${escape}[38;2;${upper?.join(';') ?? ''};${behind}m`;
      line += colours === before ? '▀' : `${colours}▀`;
      before = colours;
    }
    lines.push(`${line}${escape}[0m`);
  }
  return lines.join('\n');
}

/** kitty's graphics protocol: a PNG in base64, 4096 characters a message, all but the last with m=1. */
function kitty(png: Uint8Array): string {
  const parts =
    Buffer.from(png)
      .toString('base64')
      .match(/.{1,4096}/g) ?? [];
  return parts
    .map((part, i) => {
      const head = i === 0 ? 'a=T,f=100,q=2,' : '';
      return `${escape}_G${head}m=${i < parts.length - 1 ? 1 : 0};${part}${escape}\\`;
    })
    .join('');
}

function sixels(picture: Picture): string {
  const { width, height } = picture;
  const rgba = new Uint8Array(4 * width * height);
  for (let i = 0; i < width * height; i++) {
    rgba.set([...(colourAt(picture, i % width, Math.floor(i / width)) ?? []), 255], 4 * i);
  }
  return sixel.image2sixel(rgba, width, height, 256, 1);
}
