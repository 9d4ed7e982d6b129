import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../src/io/atomic.ts';
import { fileError } from '../src/io/errno.ts';
import { UserError, messageOf } from '../src/util/errors.ts';
import { ablationTable } from './ablation/report.ts';
import type { Ablation } from './ablation/report.ts';
import { markdownTable } from './output/text.ts';
import { summaryOf } from './output/sheet.ts';
import { summary } from './peers/report.ts';
import type { PeersResult } from './peers/report.ts';
import { resultSchema } from './results.ts';
import type { BenchResult } from './results.ts';

const marker = /<!-- bench:([\w.-]+) -->/g;

/** The results kept in a folder, by adapter; a file of another make, as that of `bench peers`, is not among them. */
export function readResults(folder: string): BenchResult[] {
  return filesOf(folder).flatMap(({ path, data }) => {
    if (!isResult(data)) return [];
    const parsed = resultSchema.safeParse(data);
    if (parsed.success) return [parsed.data];
    const issue = parsed.error.issues[0];
    const where = issue?.path.join('.') ?? '';
    throw new UserError(`${path} is no result of this bench: ${where} ${issue?.message ?? ''}`);
  });
}

/** What is measured by a command of its own: the name of its tables in a page, and how they are made. */
const others = {
  peers: { command: 'npx wgsagan bench peers', table: (data) => isPeers(data) && summary(data) },
  ablation: {
    command: 'node bench/ablation',
    table: (data) => isAblation(data) && ablationTable(data),
  },
} satisfies Record<string, { command: string; table: (data: unknown) => string | false }>;
type Other = keyof typeof others;

const isOther = (name: string): name is Other => Object.hasOwn(others, name);

/** The tables in a folder that `others` makes. */
export function readOthers(folder: string): Record<Other, string[]> {
  const files = filesOf(folder);
  const of = (name: Other) =>
    files.flatMap(({ data }) => {
      const table = others[name].table(data);
      return table === false ? [] : [table];
    });
  return { peers: of('peers'), ablation: of('ablation') };
}

function filesOf(folder: string): { path: string; data: unknown }[] {
  if (!existsSync(folder)) return [];
  const names = readdirSync(folder).filter((name) => name.endsWith('.json'));
  return names.sort().map((name) => {
    const path = join(folder, name);
    try {
      return { path, data: JSON.parse(readFileSync(path, 'utf8')) as unknown };
    } catch (error) {
      throw new UserError(`${path} is not JSON: ${messageOf(error)}`);
    }
  });
}

function isPeers(data: unknown): data is PeersResult {
  return typeof data === 'object' && data !== null && 'comparison' in data && 'machine' in data;
}

function isAblation(data: unknown): data is Ablation {
  return typeof data === 'object' && data !== null && 'trained' in data && 'extractor' in data;
}

function isResult(data: unknown): boolean {
  const kind = typeof data === 'object' && data !== null && 'kind' in data ? data.kind : undefined;
  return kind === 'ladder' || kind === 'step' || kind === 'overhead';
}

/**
 * The text with what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` replaced by the tables of that bench,
 * one an adapter. Throws a `UserError` for a marker that is not closed, or that nothing was measured for.
 */
export function fillMarkers(
  text: string,
  results: readonly BenchResult[],
  tables: Readonly<Record<Other, readonly string[]>> = { peers: [], ablation: [] },
): string {
  let filled = text;
  for (const [begin, name = ''] of text.matchAll(marker)) {
    const end = `<!-- /bench:${name} -->`;
    const [from, to] = [filled.indexOf(begin), filled.indexOf(end)];
    if (to < from) throw new UserError(`${begin} is not closed by ${end}`);
    const found = isOther(name)
      ? tables[name]
      : results.filter((result) => result.bench === name).map(tableOf);
    if (found.length === 0) {
      const command = isOther(name) ? others[name].command : `npx wgsagan bench ${name} --save`;
      throw new UserError(`${begin} has no results: make them by \`${command}\``);
    }
    const body = found.join('\n\n');
    filled = `${filled.slice(0, from + begin.length)}\n\n${body}\n\n${filled.slice(to)}`;
  }
  return filled;
}

function tableOf(result: BenchResult): string {
  return `**${result.environment.adapter}**\n\n${markdownTable(summaryOf(result))}`;
}

/** Brings a file's tables up to date; with `check` only says whether they are. Returns the names of what is in it. */
export async function report(options: {
  readme: string;
  results: string;
  check: boolean;
}): Promise<string[]> {
  const { readme, results, check } = options;
  let before: string;
  try {
    before = readFileSync(readme, 'utf8');
  } catch (error) {
    throw fileError(error, 'read', readme);
  }
  const after = fillMarkers(before, readResults(results), readOthers(results));
  if (after !== before) {
    if (check) {
      throw new UserError(
        `${readme} is not what ${results} says: run \`npx wgsagan bench report\``,
      );
    }
    await writeFileAtomic(readme, after);
  }
  return [...before.matchAll(marker)].map(([, name = '']) => name);
}
