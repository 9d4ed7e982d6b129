import { presetNames, presets } from '../models/presets.ts';
import { UserError } from '../util/errors.ts';
import { lossNames, losses } from './losses.ts';
import { optionName } from './check.ts';
import { defaults } from './options.ts';
import type { TrainConfig } from './options.ts';

/** Refuses options that do not go together, with the reason. */
export function checkOptions(config: TrainConfig): void {
  const { imageSize, attentionG, attentionD, conditional, classes, stageSteps } = config;
  const { family } = presets[config.preset];
  checkFrames(config);
  checkEvaluation(config);
  const reason = family.refuse(config);
  if (reason !== undefined) throw new UserError(reason);
  if (stageSteps !== undefined && family.steps === undefined) {
    throw new UserError(`--stage-steps ${stageSteps} says nothing to a net that does not grow`);
  }
  if (classes > 0 && !conditional) {
    throw new UserError(`--classes ${classes} says nothing without --conditional`);
  }
  if (config.evalInception !== undefined && config.evalEvery === undefined) {
    throw new UserError('--eval-inception says nothing without --eval-every');
  }
  checkKind(config);
  checkLoss(config);
  if (config.attention === 'class' && !conditional) {
    throw new UserError('--attention class needs --conditional: it is told the classes of images');
  }
  const there = family.stages(imageSize);
  for (const [option, stages] of [
    ['attention-g', attentionG],
    ['attention-d', attentionD],
  ] as const) {
    const bad = stages.find((s) => !there.includes(s));
    if (bad !== undefined) {
      throw new UserError(
        `--${option} ${bad} is no feature size of a ${imageSize}-pixel image; there are ${there.join(', ')}`,
      );
    }
  }
  checkAttention(config);
}

/** Refuses clips for a family of stills, and stills for one of clips. */
function checkFrames({ preset, frames }: TrainConfig): void {
  const clips = presets[preset].family.clips ?? false;
  if (clips === frames > 1) return;
  const makers = presetNames.filter((name) => presets[name].family.clips === true);
  throw new UserError(
    clips
      ? `--frames 1 is a still, and ${preset} makes clips: give 2 or more`
      : `--frames ${frames} says nothing to ${preset}, which makes stills; clips are made by ${makers.join(' and ')}`,
  );
}

/** Refuses to evaluate clips: what measures them looks at stills. */
function checkEvaluation({ evalEvery, frames, preset }: TrainConfig): void {
  if (evalEvery === undefined || frames === 1) return;
  throw new UserError(
    `--eval-every ${evalEvery} measures stills, and ${preset} makes clips: leave it out`,
  );
}

/** Refuses sizes that the chosen attention cannot have. Every stage has a multiple of `width` channels. */
function checkAttention({
  attention,
  attentionG,
  attentionD,
  width,
  heads,
  topk,
}: TrainConfig): void {
  const stages = [...attentionG, ...attentionD];
  if (stages.length === 0) return;
  if (attention === 'multihead' && width % heads !== 0) {
    throw new UserError(
      `--heads ${heads} does not divide --width ${width}: heads share the channels evenly`,
    );
  }
  const smallest = Math.min(...stages);
  if (attention === 'topk' && topk > smallest ** 2) {
    throw new UserError(
      `--topk ${topk} is more than the ${smallest ** 2} positions of attention at ${smallest}×${smallest}`,
    );
  }
}

/** Options that say something to one kind of family alone, whose default stands for the others. */
const onlyOf = {
  gan: [
    ...(['loss', 'labelSmoothing', 'regularizer', 'regularizerWeight'] as const),
    ...(['augment', 'lrD', 'dSteps'] as const),
  ],
  vae: ['reconstruction', 'klWeight'],
} as const;
const kindNames = { gan: 'GAN', vae: 'VAE' } as const;

/** Refuses options of another kind of family. */
function checkKind(config: TrainConfig): void {
  const { kind } = presets[config.preset].family;
  for (const other of ['gan', 'vae'] as const) {
    const key = onlyOf[other].find((one) => String(config[one]) !== String(defaults[one]));
    if (other === kind || key === undefined) continue;
    throw new UserError(
      `--${optionName(key)} ${String(config[key])} is for a ${kindNames[other]}; ${config.preset} is a ${kindNames[kind]}`,
    );
  }
}

/** Refuses what the loss or the regulariser that was chosen would leave unread. */
function checkLoss({ loss, labelSmoothing, regularizer, regularizerWeight }: TrainConfig): void {
  const smooths = (name: keyof typeof losses) => losses[name].smooths;
  if (labelSmoothing > 0 && !smooths(loss)) {
    const able = lossNames.filter(smooths).join(' or ');
    throw new UserError(`--label-smoothing ${labelSmoothing} is for --loss ${able}, not ${loss}`);
  }
  if (regularizer === 'none' && regularizerWeight !== defaults.regularizerWeight) {
    throw new UserError(
      `--regularizer-weight ${regularizerWeight} says nothing without --regularizer`,
    );
  }
}
