import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Style, createAvatar } from '@dicebear/core';
import { UserError } from '../util/errors.ts';

/** DiceBear 9.4.3 styles whose drawings are CC0 1.0 (each package's `meta.license`). */
export const AVATAR_STYLES = [
  'glass',
  'identicon',
  'initials',
  'lorelei',
  'lorelei-neutral',
  'notionists',
  'notionists-neutral',
  'open-peeps',
  'pixel-art',
  'pixel-art-neutral',
  'rings',
  'shapes',
  'thumbs',
] as const;

const DICEBEAR_VERSION = '9.4.3';
/** One plain ground behind everything, so that a small network spends itself on the figure. */
const BACKGROUND = ['f1f4dc'];

type AnyStyle = Style<Record<string, unknown>>;

/** Options and drawing that make a style learnable at 32 pixels; a style that is not here is used as it comes. */
const TUNED: Readonly<Record<string, { options: object; style: (style: AnyStyle) => AnyStyle }>> = {
  // Six clear colours; the head near the middle and nearly upright; no pursed lips, which are one pixel wide.
  thumbs: {
    options: {
      shapeColor: ['0a5b83', '2a9d8f', 'e76f51', 'f4a261', '8e6fc1', 'd1495b'],
      mouth: ['variant1', 'variant2', 'variant3', 'variant4'],
      scale: 94,
      shapeRotation: [-8, 8],
      shapeOffsetX: [-4, 4],
      shapeOffsetY: [-3, 5],
      faceRotation: [-10, 10],
      faceOffsetX: [-5, 5],
      faceOffsetY: [-2, 7],
    },
    style: enlargeThumbsFace,
  },
};

/** Draws avatars of one style: SVG text from a seed. */
export type AvatarDrawer = (seed: string, size: number) => string;

/**
 * The drawer of a style, its package loaded from beside this program or else from the working directory's
 * `node_modules`. Throws a `UserError` with the command that installs it.
 */
export async function loadStyle(style: string): Promise<AvatarDrawer> {
  const install = `run npm install @dicebear/${style}@${DICEBEAR_VERSION}`;
  const path = resolvePackage(`@dicebear/${style}`);
  if (path === undefined) {
    throw new UserError(`avatar style ${style} needs the package @dicebear/${style}; ${install}`);
  }
  const module = (await import(/* @vite-ignore */ pathToFileURL(path).href)) as Partial<AnyStyle>;
  if (typeof module.create !== 'function') {
    throw new UserError(`@dicebear/${style} is not of DiceBear 9; ${install}`);
  }
  const tuned = TUNED[style];
  const drawn = tuned?.style(module as AnyStyle) ?? (module as AnyStyle);
  return (seed, size) => {
    // Fresh arrays a call: some styles change the options that they are given.
    const options = structuredClone({ backgroundColor: BACKGROUND, ...tuned?.options });
    return createAvatar(drawn, { ...options, seed, size }).toString();
  };
}

function resolvePackage(name: string): string | undefined {
  for (const base of [import.meta.url, join(process.cwd(), 'package.json')]) {
    try {
      return createRequire(base).resolve(name);
    } catch {
      // Not installed there: the caller says what to do if it is nowhere.
    }
  }
  return undefined;
}

/** Eyes and mouth 1.5 times as large about their middle (50, 50): at 32 pixels they are two to four pixels wide. */
function enlargeThumbsFace(thumbs: AnyStyle): AnyStyle {
  const place = '<g transform="translate(29 33)">';
  return {
    ...thumbs,
    create(props) {
      const result = thumbs.create(props);
      if (!result.body.includes(place)) {
        throw new UserError(
          `@dicebear/thumbs is not version ${DICEBEAR_VERSION}; install that one`,
        );
      }
      const larger = '<g transform="translate(50 50) scale(1.5) translate(-21 -17)">';
      return { ...result, body: result.body.replace(place, larger) };
    },
  };
}
