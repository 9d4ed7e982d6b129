import { dcgan, dcganPresets } from './dcgan.ts';
import type { GanFamily, GanOptions } from './gan.ts';
import { resnet, resnetPresets } from './resnet.ts';
import { sagan, saganPresets } from './sagan.ts';
import { video, videoPresets } from './video.ts';

/** A named architecture: its family and what it makes of it. */
export interface GanPreset {
  readonly family: GanFamily;
  readonly options: GanOptions;
}

function presetsOf<Name extends string>(
  family: GanFamily,
  options: Readonly<Record<Name, GanOptions>>,
): Record<Name, GanPreset> {
  const named = Object.entries<GanOptions>(options).map(([name, one]) => [
    name,
    { family, options: one },
  ]);
  return Object.fromEntries(named) as Record<Name, GanPreset>;
}

/** Every GAN that can be trained by name. */
export const ganPresets = {
  ...presetsOf(sagan, saganPresets),
  ...presetsOf(resnet, resnetPresets),
  ...presetsOf(dcgan, dcganPresets),
  ...presetsOf(video, videoPresets),
};

export type GanPresetName = keyof typeof ganPresets;
export const ganPresetNames = Object.keys(ganPresets) as [GanPresetName, ...GanPresetName[]];
