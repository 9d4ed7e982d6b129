import { dcgan, dcganPresets } from './dcgan.ts';
import type { Family, GanOptions } from './gan.ts';
import { progressive, progressivePresets } from './progressive.ts';
import { resnet, resnetPresets } from './resnet.ts';
import { sagan, saganPresets } from './sagan.ts';
import { vae, vaePresets } from './vae.ts';
import { video, videoPresets } from './video.ts';

/** A named architecture: its family and what it makes of it. */
export interface Preset<F extends Family = Family> {
  readonly family: F;
  readonly options: GanOptions;
}

function presetsOf<Name extends string, F extends Family>(
  family: F,
  options: Readonly<Record<Name, GanOptions>>,
): Record<Name, Preset<F>> {
  const named = Object.entries<GanOptions>(options).map(([name, one]) => [
    name,
    { family, options: one },
  ]);
  return Object.fromEntries(named) as Record<Name, Preset<F>>;
}

/** Every GAN that can be trained by name. */
export const ganPresets = {
  ...presetsOf(sagan, saganPresets),
  ...presetsOf(resnet, resnetPresets),
  ...presetsOf(dcgan, dcganPresets),
  ...presetsOf(progressive, progressivePresets),
  ...presetsOf(video, videoPresets),
};

export type GanPresetName = keyof typeof ganPresets;
export const ganPresetNames = Object.keys(ganPresets) as [GanPresetName, ...GanPresetName[]];

/** Everything that can be trained by name. */
export const presets = {
  ...ganPresets,
  ...presetsOf(vae, vaePresets),
};

export type PresetName = keyof typeof presets;
export const presetNames = Object.keys(presets) as [PresetName, ...PresetName[]];
