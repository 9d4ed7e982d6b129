import type { GanOptions } from './gan.ts';

// What families of nets that halve and double their images share.

/** Feature sizes between 4 and half the image: 4, 8, … imageSize/2. */
export function featureSizes(imageSize: number): number[] {
  const sizes: number[] = [];
  for (let size = 4; size < imageSize; size *= 2) sizes.push(size);
  return sizes;
}

/** Channels at a feature size: `width` at half the image, doubled at each halving. */
export function channelsAt({ width, imageSize }: GanOptions, size: number): number {
  return (width * imageSize) / 2 / size;
}

/** Why a family cannot make images of a size, from the smallest that it can; undefined where it can. */
export function refuseSize({ imageSize }: GanOptions, least: number): string | undefined {
  const fits = imageSize >= least && imageSize <= 512 && Number.isInteger(Math.log2(imageSize));
  if (fits) return undefined;
  return `--image-size ${imageSize} is impossible: it must be a power of two from ${least} to 512`;
}

/** Why a family whose nets are told no classes cannot be conditional; undefined where that is not asked for. */
export function refuseClasses({ conditional }: GanOptions, family: string): string | undefined {
  if (!conditional) return undefined;
  return `--conditional needs a preset of sagan-resnet or vae: ${family} tells no classes`;
}
