import { grad } from '../autograd/tape.ts';
import type { Tape } from '../autograd/tape.ts';
import { empty } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Gpu } from '../gpu/device.ts';
import type { Net } from '../models/gan.ts';
import { presets } from '../models/presets.ts';
import type { PresetName } from '../models/presets.ts';
import { copyInto } from '../ops/copy.ts';
import type { Adam } from '../optim/adam.ts';
import type { GradScaler } from '../optim/scaler.ts';
import { UserError } from '../util/errors.ts';
import { HostRng } from '../util/philox.ts';
import type { Reading } from './learner.ts';
import type { TrainConfig } from './options.ts';

// What learners of all kinds make of their nets.

/** The first values of weights that are about to be replaced: drawing and orthogonalising real ones can take minutes. */
class NoRng extends HostRng {
  override word(): number {
    return 2 ** 31;
  }
}

/** Streams of the host's random numbers: what each is for. */
const stream = { generator: [1, 0], other: [2, 0] } as const;

/** What the first values of a config's nets are made of; those of `blank` nets are soon replaced. */
export function firstValues(config: TrainConfig, blank: boolean) {
  const rng = (net: keyof typeof stream) =>
    blank ? new NoRng(0) : new HostRng(config.seed, { stream: stream[net] });
  return { first: blank ? { ...config, init: 'default' as const } : config, rng };
}

/** A generator that waits for the values of another, or of a file. */
export function blankGenerator(tape: Tape, config: TrainConfig): Net {
  const { first, rng } = firstValues(config, true);
  return presets[config.preset].family.generator(tape, first, rng('generator'));
}

/** What a net that is trained with a generator is called: in a checkpoint, and by `--net`. */
export type OtherNet = 'discriminator' | 'encoder';

/** What the other net of a preset is called. */
export function otherNetOf(preset: PresetName): OtherNet {
  return presets[preset].family.kind === 'gan' ? 'discriminator' : 'encoder';
}

/** The net beside the generator that waits for the values of a file. */
export function blankOther(tape: Tape, config: TrainConfig): Net {
  const { first, rng } = firstValues(config, true);
  const { family } = presets[config.preset];
  return family.kind === 'gan'
    ? family.discriminator(tape, first, rng('other'))
    : family.encoder(tape, first, rng('other'));
}

/** The average of a generator's weights before the first step: a copy of them, or blank if they are. */
export function averageOf(generator: Net, config: TrainConfig, blank: boolean): Net {
  const average = blankGenerator(generator.tape, config);
  if (blank) return average;
  const own = average.stateDict();
  for (const [name, value] of generator.stateDict()) {
    const target = own.get(name);
    if (target !== undefined) copyInto(target, value);
  }
  return average;
}

/** Throws a `UserError` for f16 on a device that has none. */
export function checkPrecision({ adapter, features }: Gpu, { precision }: TrainConfig): void {
  if (precision !== 'f16' || features.has('shader-f16')) return;
  throw new UserError(
    `--precision f16 needs the feature shader-f16, which ${adapter.name} has not`,
  );
}

/** Throws a `UserError` for nets that are told classes before anyone knows how many there are. */
export function checkClasses({ conditional, classes }: TrainConfig): void {
  if (conditional && classes === 0) {
    throw new UserError('--conditional needs to know how many classes there are: give --classes');
  }
}

/** A learner's `begin` where nothing but averaging changes: the average is a copy until `emaStart`. */
export function averaging(optimizer: Adam, { emaStart, emaDecay }: TrainConfig) {
  let decay: number | undefined;
  return (step: number): boolean => {
    const now = step < emaStart ? 0 : emaDecay;
    if (now !== decay) for (const group of optimizer.groups) group.set({ emaDecay: now });
    decay = now;
    return false;
  };
}

/**
 * What is read of nets while they train: gamma of each attention block, as `gamma/<net>.<block>`, and the spectral norms as
 * the last forward pass estimated them, as `sigma/<net>.<layer>`.
 */
export function insides(nets: Readonly<Record<string, Net>>): Reading[] {
  return Object.entries(nets).flatMap(([name, net]) => {
    const gammas = [...net.namedParameters()].flatMap(([key, of]) =>
      key.endsWith('.gamma') ? { names: [`gamma/${name}.${key.slice(0, -6)}`], of } : [],
    );
    const norms = net.spectra?.last;
    if (norms === undefined) return gammas;
    const names = norms.names.map((layer) => `sigma/${name}.${layer}`);
    return [...gammas, { names, of: norms.sigma }];
  });
}

/** Moves an optimiser's parameters by the gradient of a loss. Returns that gradient's norm, as `Adam.step` gives it. */
export function descend(optimizer: Adam, loss: Tensor, scaler: GradScaler | undefined): Tensor {
  const seed = scaler === undefined ? {} : { gradOutputs: [scaler.scale] };
  const norm = empty(loss.tape, [], { label: 'gradient norm' });
  optimizer.step(grad([loss], optimizer.parameters(), seed), { scaler, norm });
  scaler?.update();
  return norm;
}
