import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { Vocabulary } from '../../data/vocabulary.ts';
import { readSafetensors } from '../../io/safetensors.ts';
import type { SafetensorsFile } from '../../io/safetensors.ts';
import { UserError } from '../../util/errors.ts';
import {
  checkpointFolder,
  listCheckpoints,
  noCheckpoint,
  restoreTensors,
  writeCheckpoint,
} from '../checkpoint.ts';
import { optionName, optionsToYaml } from '../check.ts';
import { readNewestWhole } from '../fallback.ts';
import { runPaths } from '../run-folder.ts';
import { fixedKeys, resolveSeq2Seq, seq2seqFromYaml } from './config.ts';
import type { Seq2SeqConfig } from './config.ts';
import { namedTensors } from './learner.ts';
import type { Seq2SeqLearner, SizedConfig, Vocabularies } from './learner.ts';

const kind = 'wgsagan seq2seq checkpoint';

export interface Seq2SeqCheckpoint extends Vocabularies {
  readonly path: string;
  readonly file: SafetensorsFile;
  readonly config: SizedConfig;
  /** Steps done. */
  readonly step: number;
  /** Fingerprint of the pairs. */
  readonly data: string;
}

/** Writes a learner's state and where its run stands, `writeCheckpoint`. Returns the path. */
export function saveSeq2Seq(
  run: string,
  learner: Seq2SeqLearner,
  { step, data }: { readonly step: number; readonly data: string },
): Promise<string> {
  const metadata = {
    ...{ format: '1', kind, data },
    sourceWords: JSON.stringify(learner.source.own),
    targetWords: JSON.stringify(learner.target.own),
    config: optionsToYaml(learner.config),
  };
  return writeCheckpoint(run, { named: namedTensors(learner), step, metadata });
}

/** What `--resume` goes on from: without a checkpoint the run was ended before its first, and begins again. */
export interface Saved {
  readonly config: Readonly<Record<string, unknown>>;
  readonly checkpoint: Seq2SeqCheckpoint | undefined;
  /** What is wrong with newer checkpoints. */
  readonly refused: readonly string[];
}

/** Where a run stands. Throws a `UserError` where nothing is to go on from. */
export async function readSaved(run: string): Promise<Saved> {
  const { config: path } = runPaths(run);
  if ((await listCheckpoints(run)).length > 0) {
    const { checkpoint, refused } = await readNewestWhole(run, readSeq2SeqFile);
    return { config: checkpoint.config, checkpoint, refused };
  }
  if (!existsSync(path)) throw noCheckpoint(run, 'seq2seq');
  const config = seq2seqFromYaml(readFileSync(path, 'utf8'), path);
  return { config, checkpoint: undefined, refused: [] };
}

/** A run's newest checkpoint. Throws a `UserError` where there is none, or it is damaged, or another command's. */
export async function readSeq2Seq(run: string): Promise<Seq2SeqCheckpoint> {
  const newest = (await listCheckpoints(run)).at(-1);
  if (newest === undefined) throw noCheckpoint(run, 'seq2seq');
  return readSeq2SeqFile(join(checkpointFolder(run), newest));
}

async function readSeq2SeqFile(path: string): Promise<Seq2SeqCheckpoint> {
  const file = await readSafetensors(path, { role: 'checkpoint' });
  const { metadata } = file;
  if (metadata['kind'] !== kind || metadata['format'] !== '1') {
    throw new UserError(`checkpoint ${path} is not of a wgsagan 1.x seq2seq run`);
  }
  const config = resolveSeq2Seq(seq2seqFromYaml(metadata['config'] ?? '', `checkpoint ${path}`));
  const step = Number(metadata['step']);
  if (config.length === undefined || !Number.isSafeInteger(step)) {
    throw new UserError(`checkpoint ${path} is damaged: it tells no length or no step`);
  }
  return {
    ...{ path, file, step, data: metadata['data'] ?? '' },
    config: { ...config, length: config.length },
    source: vocabularyOf(path, metadata['sourceWords']),
    target: vocabularyOf(path, metadata['targetWords']),
  };
}

function vocabularyOf(path: string, text = ''): Vocabulary {
  try {
    return new Vocabulary(z.array(z.string()).parse(JSON.parse(text)));
  } catch (error) {
    throw new UserError(`checkpoint ${path} is damaged: its vocabulary is no list of words`, {
      cause: error,
    });
  }
}

/** Refuses to go on with other pairs or another architecture, naming the first option that differs. */
export function checkSameRun({ path, config: then }: Seq2SeqCheckpoint, now: Seq2SeqConfig): void {
  const other = fixedKeys.find((key) => then[key] !== now[key]);
  if (other === undefined) return;
  throw new UserError(
    `checkpoint ${path} is of another run: --${optionName(other)} was ${String(then[other])}, now ${String(now[other])}`,
  );
}

/** Puts a checkpoint's tensors into a learner; nothing is changed unless all of them fit. */
export function restoreSeq2Seq(learner: Seq2SeqLearner, checkpoint: Seq2SeqCheckpoint): void {
  restoreTensors(checkpoint, [...namedTensors(learner)]);
  // Rates are the config's, which a resumed run may change; the step count and the moments are the file's.
  for (const group of learner.optimizer.groups) group.set({});
  learner.noise.restore(checkpoint.step);
}
