import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { AdapterSummary } from '../gpu/adapter.ts';
import type { Choice } from '../gpu/choices.ts';
import { cacheDir, engineVersion } from '../gpu/platform.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { messageOf } from '../util/errors.ts';

const keySchema = z.object({ adapter: z.string(), driver: z.string(), wgsagan: z.string() });

const choiceSchema = z.object({
  rung: z.string(),
  tile: z.record(z.string(), z.union([z.number(), z.string()])),
  /** Milliseconds of this choice, and of what the adapter's class would have run. */
  ms: z.number(),
  usualMs: z.number(),
});

const fileSchema = z.object({
  format: z.literal(1),
  key: keySchema,
  /** ISO 8601. */
  made: z.string(),
  choices: z.record(z.string(), choiceSchema),
});

export type TunedChoice = z.infer<typeof choiceSchema>;

/** What a tuning cache holds, or why nothing of it is taken. */
export interface TunedFile {
  readonly state: 'none' | 'broken' | 'good';
  readonly path: string;
  /** By ladder and sizes; empty unless the file is good. */
  readonly choices: ReadonlyMap<string, TunedChoice>;
  readonly made: string;
  /** One line; empty unless the file is broken. */
  readonly complaint: string;
}

/** What makes other kernels the fastest: another device, another compiler beneath it, other kernels. */
function keyOf({ name, description, driver }: AdapterSummary): z.infer<typeof keySchema> {
  const { kind, version, vectorWidth } = driver;
  const width = kind === 'lavapipe' ? [`${vectorWidth} bits`] : [];
  const parts = [kind, ...(version === null ? [] : [version]), ...width, description];
  return { adapter: name, driver: parts.join(' '), wgsagan: engineVersion() };
}

export function tunedPath(adapter: AdapterSummary): string {
  const { driver, wgsagan } = keyOf(adapter);
  const slug = (text: string) => text.replaceAll(/[^\w.]+/g, '-').replaceAll(/^-|-$/g, '');
  const name = [adapter.name, driver, wgsagan].map(slug).join('_').slice(0, 200);
  return join(cacheDir(), 'tuning', `${name}.json`);
}

/** Reads the cache of an adapter. A file that is cut, edited or of something else is told of, and never a failure. */
export function readTuned(adapter: AdapterSummary): TunedFile {
  const path = tunedPath(adapter);
  const nothing = { path, choices: new Map<string, TunedChoice>(), made: '', complaint: '' };
  if (!existsSync(path)) return { ...nothing, state: 'none' };
  const broken = (why: string): TunedFile => {
    const remedy = 'what was tuned is not used; `wgsagan tune --force` makes it anew';
    return { ...nothing, state: 'broken', complaint: `${path} ${why}: ${remedy}` };
  };
  let data: unknown;
  try {
    data = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    return broken(`cannot be read (${messageOf(error).split('\n')[0]})`);
  }
  const parsed = fileSchema.safeParse(data);
  if (!parsed.success) {
    return broken(`is no tuning cache (${parsed.error.issues[0]?.path.join('.')})`);
  }
  const { key, made, choices } = parsed.data;
  if (JSON.stringify(key) !== JSON.stringify(keyOf(adapter))) {
    return broken(`is of ${key.adapter}, ${key.driver}, wgsagan ${key.wgsagan}`);
  }
  return { ...nothing, state: 'good', made, choices: new Map(Object.entries(choices)) };
}

/** Writes the cache of an adapter whole. */
export async function writeTuned(
  adapter: AdapterSummary,
  choices: ReadonlyMap<string, TunedChoice>,
): Promise<string> {
  const path = tunedPath(adapter);
  mkdirSync(dirname(path), { recursive: true });
  const file: z.infer<typeof fileSchema> = {
    format: 1,
    key: keyOf(adapter),
    made: new Date().toISOString(),
    choices: Object.fromEntries(choices),
  };
  await writeFileAtomic(path, `${JSON.stringify(file, null, 1)}\n`);
  return path;
}

/** What `openGpu` takes for `tuned`: the cache of whichever adapter it opens. Says in a line if that is broken. */
export function tunedChoices(adapter: AdapterSummary): ReadonlyMap<string, Choice> {
  const { choices, complaint } = readTuned(adapter);
  if (complaint !== '') process.stderr.write(`${complaint}\n`);
  return choices;
}
