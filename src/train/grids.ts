import { encodeApng } from '../io/apng.ts';
import { imageGrid } from '../io/png.ts';
import type { Picture } from '../io/png.ts';
import type { TrainConfig } from './options.ts';

/** Of a frame, in an animation. */
const delayMs = 125;
const morphDelayMs = 60;

/** What images are of: the part of a config that says. */
type ImageConfig = Pick<TrainConfig, 'channels' | 'frames' | 'imageSize'>;

/**
 * n images as one picture, in `columns` or near a square; n clips as a row each, their frames from left to right.
 */
export function stillOf(
  images: Float32Array,
  n: number,
  config: ImageConfig,
  { columns }: { readonly columns?: number | undefined } = {},
): Picture {
  const { channels, frames, imageSize } = config;
  const size = { channels, height: imageSize, width: imageSize };
  if (frames === 1) return imageGrid(images, { n, ...size, columns });
  const rows = Array.from({ length: n }, (_u, clip) =>
    Array.from({ length: frames }, (_v, t) => frameOf(images, { clip, t }, config)),
  );
  return imageGrid(joined(rows.flat()), { n: n * frames, columns: frames, ...size });
}

/** Images one after the other as an animated PNG. */
export function morphOf(images: Float32Array, n: number, config: ImageConfig): Uint8Array {
  const { channels, imageSize } = config;
  const size = { n: 1, padding: 0, channels, height: imageSize, width: imageSize };
  const each = images.length / n;
  const pictures = Array.from({ length: n }, (_u, i) =>
    imageGrid(images.subarray(i * each, (i + 1) * each), size),
  );
  return encodeApng(pictures, { delayMs: morphDelayMs });
}

/** n clips as an animated PNG: a grid near a square, in which all of them move. */
export function movingOf(
  images: Float32Array,
  n: number,
  config: ImageConfig,
  { padding }: { readonly padding?: number } = {},
): Uint8Array {
  const { channels, frames, imageSize } = config;
  const size = { n, channels, height: imageSize, width: imageSize, padding };
  const pictures = Array.from({ length: frames }, (_u, t) => {
    const now = Array.from({ length: n }, (_v, clip) => frameOf(images, { clip, t }, config));
    return imageGrid(joined(now), size);
  });
  return encodeApng(pictures, { delayMs });
}

/** A frame [channels, S, S] of clips [n, channels, frames, S, S]. */
function frameOf(
  clips: Float32Array,
  { clip, t }: { clip: number; t: number },
  { channels, frames, imageSize }: ImageConfig,
): Float32Array {
  const plane = imageSize ** 2;
  const planes = Array.from({ length: channels }, (_u, c) => {
    const from = ((clip * channels + c) * frames + t) * plane;
    return clips.subarray(from, from + plane);
  });
  return joined(planes);
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
