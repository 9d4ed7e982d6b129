import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../src/io/atomic.ts';
import { fileError } from '../src/io/errno.ts';
import { UserError, messageOf } from '../src/util/errors.ts';
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

/** What `bench peers` left in a folder, as tables of ratios. */
export function readPeers(folder: string): string[] {
  return filesOf(folder).flatMap(({ data }) => (isPeers(data) ? [summary(data)] : []));
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
  peers: readonly string[] = [],
): string {
  let filled = text;
  for (const [begin, name = ''] of text.matchAll(marker)) {
    const end = `<!-- /bench:${name} -->`;
    const [from, to] = [filled.indexOf(begin), filled.indexOf(end)];
    if (to < from) throw new UserError(`${begin} is not closed by ${end}`);
    const tables =
      name === 'peers' ? peers : results.filter((result) => result.bench === name).map(tableOf);
    if (tables.length === 0) {
      const command = `npx wgsagan bench ${name}${name === 'peers' ? '' : ' --save'}`;
      throw new UserError(`${begin} has no results: make them by \`${command}\``);
    }
    const body = tables.join('\n\n');
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
  const after = fillMarkers(before, readResults(results), readPeers(results));
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
