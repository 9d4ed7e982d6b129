// Pictures in a terminal: what is written is decoded back to pixels.
import { describe, expect, test } from 'vitest';
import sixel from 'sixel';
import { previewKind, previewText } from '../../src/cli/preview.ts';
import { decodePng } from '../../src/io/png.ts';
import type { Picture } from '../../src/io/png.ts';
import { UserError } from '../../src/util/errors.ts';

/** Each pixel of a colour of its own. */
function pictureOf(width: number, height: number, channels: 1 | 3 = 3): Picture {
  const pixels = new Uint8Array(width * height * channels);
  pixels.forEach((_p, i) => (pixels[i] = (i * 37 + (i >> 3) * 11) % 256));
  return { pixels, width, height, channels };
}

/** The pixels of half blocks, a row of them to each half of a line. */
function decodeBlocks(text: string): number[][][] {
  const rows: number[][][] = [];
  for (const line of text.split('\n')) {
    const upper: number[][] = [];
    const lower: number[][] = [];
    let colours: number[][] = [];
    for (const [, code, block] of line.matchAll(/\x1b\[([\d;]+)m|(▀)/g)) {
      if (block !== undefined) {
        upper.push(colours[0]!);
        if (colours[1] !== undefined) lower.push(colours[1]);
      } else {
        const [, front, behind] =
          /^38;2;(\d+;\d+;\d+);(?:48;2;(\d+;\d+;\d+)|49)$/.exec(code!) ?? [];
        colours = [front, behind].flatMap((c) =>
          c === undefined ? [] : [c.split(';').map(Number)],
        );
      }
    }
    rows.push(upper);
    if (lower.length > 0) rows.push(lower);
  }
  return rows;
}

/** kitty's messages put together. */
function decodeKitty(text: string) {
  const messages = [...text.matchAll(/\x1b_G([^;]*);([^\x1b]*)\x1b\\/g)];
  expect(messages.map(([whole]) => whole).join('')).toBe(text);
  const more = messages.map(([, keys]) => /m=(\d)/.exec(keys!)![1]);
  expect(more).toEqual([...messages.slice(1).map(() => '1'), '0']);
  expect(messages[0]![1]).toContain('a=T,f=100');
  for (const [, , part] of messages) expect(part!.length).toBeLessThanOrEqual(4096);
  return decodePng(Buffer.from(messages.map(([, , part]) => part).join(''), 'base64'));
}

const rowsOf = ({ pixels, width, height, channels }: Picture) =>
  Array.from({ length: height }, (_u, y) =>
    Array.from({ length: width }, (_v, x) => {
      const own = [...pixels.subarray((y * width + x) * channels, (y * width + x + 1) * channels)];
      return channels === 1 ? [own[0]!, own[0]!, own[0]!] : own;
    }),
  );

describe('what is written is the picture', () => {
  test.each([pictureOf(7, 5), pictureOf(8, 4, 1), pictureOf(1, 1)])(
    'in half blocks of $width×$height',
    (picture) => {
      expect(decodeBlocks(previewText('blocks', picture, 80))).toEqual(rowsOf(picture));
    },
  );

  test('in the protocol of kitty, of more than one message', () => {
    const picture = pictureOf(90, 70);
    const text = previewText('kitty', picture);
    expect(text.length).toBeGreaterThan(4096 + 1000);
    expect(decodeKitty(text)).toEqual(picture);
  });

  test.each([1, 3] as const)('in sixels, of %d channels', (channels) => {
    const colours = [0, 255, 102, 204];
    const picture = pictureOf(12, 9, channels);
    // Colours that a hundredth of full brightness can say.
    picture.pixels.forEach((p, i) => (picture.pixels[i] = colours[p % 4]!));
    const text = previewText('sixel', picture);
    // What stands between the introducer and the terminator.
    const [, body] = /^\x1bP[^q]*q(.*)\x1b\\$/s.exec(text)!;
    const { width, height, data32 } = sixel.decode(body!);
    expect([width, height]).toEqual([12, 9]);
    const bytes = new Uint8Array(data32.buffer, data32.byteOffset, 4 * 12 * 9);
    const seen = rowsOf(picture).flat();
    seen.forEach((colour, i) => {
      expect([...bytes.subarray(4 * i, 4 * i + 3)], `pixel ${i}`).toEqual(colour);
    });
  });

  test('smaller where the terminal is, by means of the pixels that meet', () => {
    const picture: Picture = {
      ...{ width: 4, height: 3, channels: 1 },
      pixels: Uint8Array.of(0, 10, 100, 100, 20, 30, 100, 100, 50, 70, 7, 9),
    };
    const grey = (v: number) => [v, v, v];
    expect(decodeBlocks(previewText('blocks', picture, 2))).toEqual([
      [grey(15), grey(100)],
      [grey(60), grey(8)],
    ]);
  });
});

describe('how it is shown', () => {
  const on = (environment: Record<string, string>, isTTY = true) => ({ isTTY, environment });

  test.each([
    [{ TERM: 'xterm-kitty' }, 'kitty'],
    [{ TERM: 'xterm-256color', KITTY_WINDOW_ID: '1' }, 'kitty'],
    [{ TERM: 'xterm-256color', TERM_PROGRAM: 'ghostty' }, 'kitty'],
    [{ TERM: 'foot' }, 'sixel'],
    [{ TERM: 'xterm-256color', TERM_PROGRAM: 'WezTerm' }, 'sixel'],
    [{ TERM: 'xterm-256color' }, 'blocks'],
    [{}, 'blocks'],
  ])('is %j’s own words: %s', (environment, kind) => {
    expect(previewKind('auto', on(environment))).toBe(kind);
  });

  test('is nothing unless asked for, nor where nobody looks, unless forced', () => {
    expect(previewKind(undefined, on({ TERM: 'foot' }))).toBeUndefined();
    expect(previewKind('auto', on({ TERM: 'foot' }, false))).toBeUndefined();
    expect(previewKind('blocks', on({ TERM: 'foot' }, false))).toBe('blocks');
  });

  test('is one of few words', () => {
    expect(() => previewKind('sixels', on({}))).toThrow(
      new UserError(
        '--preview sixels is unknown; did you mean sixel? There are auto, kitty, sixel, blocks',
      ),
    );
  });
});
