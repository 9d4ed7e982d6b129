import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { packageRoot } from '../gpu/platform.ts';
import type { RunData } from './data.ts';

/** The modules of `page/` that a page begins with. */
export type Entry = 'report' | 'dashboard';

const importLine = /^import \{[^}]*\} from '\.\/([\w-]+)\.js';\n/gm;

/**
 * All the script of a page: uPlot with its licence, then the modules of `page/` that the entry needs as one function. They
 * stay what they are, less the words `import` and `export`: their names of the first level are told apart by all of them.
 */
export function scriptOf(entry: Entry): string {
  const texts = new Map<string, string>();
  gather(entry, texts);
  const modules = [...texts.values()].map((text) =>
    text.replaceAll(importLine, '').replaceAll(/^export (?=(async )?function|const|class)/gm, ''),
  );
  const notice = chartFile('LICENSE').trim();
  return [
    `/* Charts are drawn by uPlot.\n\n${notice}\n*/`,
    chartFile('dist/uPlot.iife.min.js').trim(),
    `(() => {\n'use strict';\n${modules.join('\n')}})();\n`,
  ].join('\n');
}

/** The texts of a module and, before it, of those that it imports. */
function gather(name: string, texts: Map<string, string>): void {
  if (texts.has(name)) return;
  const text = pageFile(`${name}.js`);
  const needed = [...text.matchAll(importLine)].map(([, needs = '']) => needs);
  for (const one of needed) gather(one, texts);
  texts.set(name, text);
}

/** The style sheet of both pages. */
export function styleOf(): string {
  return `${chartFile('dist/uPlot.min.css').trim()}\n${pageFile('page.css')}`;
}

function pageFile(name: string): string {
  return readFileSync(join(packageRoot(), 'src', 'report', 'page', name), 'utf8');
}

function chartFile(name: string): string {
  const folder = dirname(createRequire(import.meta.url).resolve('uplot/package.json'));
  return readFileSync(join(folder, name), 'utf8');
}

/** What all reports have in common, read once: a run that is trained writes many. */
let reportParts: ReturnType<typeof partsOf> | undefined;

function partsOf(script: string, style: string) {
  const policy = [
    ...["default-src 'none'", 'img-src data:', "base-uri 'none'", "form-action 'none'"],
    `script-src '${hashOf(script)}'`,
    `style-src '${hashOf(style)}'`,
  ].join('; ');
  return { script, style, policy };
}

/**
 * A page of one file that loads nothing, and may not: its policy names the hashes of its own script and style. In pieces, as
 * they are made: the whole may be larger than what it is made of.
 */
export function* reportHtml(data: RunData): Generator<string> {
  reportParts ??= partsOf(scriptOf('report'), styleOf());
  const { script, style, policy } = reportParts;
  const [before, after] = frame({
    title: `${data.name} · wgsagan`,
    head: `<meta http-equiv="Content-Security-Policy" content="${policy}">\n<style>${style}</style>`,
    body: '',
  });
  yield `${before}<script type="application/json" id="data">`;
  // No text may end the element that it stands in.
  for (const piece of jsonOf(data)) yield piece.replaceAll('<', '\\u003c');
  yield `</script>\n<script>${script}</script>${after}`;
}

/** What JSON.stringify makes of data, in pieces no larger than a text or a row of numbers of it. */
function* jsonOf(value: unknown): Generator<string> {
  const isNested = (part: unknown) => typeof part === 'object' && part !== null;
  if (Array.isArray(value) && value.some(isNested)) {
    for (const [i, part] of value.entries()) {
      yield i === 0 ? '[' : ',';
      yield* jsonOf(part);
    }
    yield ']';
  } else if (isNested(value) && !Array.isArray(value)) {
    let between = '{';
    for (const [key, part] of Object.entries(value)) {
      if (part === undefined) continue;
      yield `${between}${JSON.stringify(key)}:`;
      yield* jsonOf(part);
      between = ',';
    }
    yield between === '{' ? '{}' : '}';
  } else yield JSON.stringify(value);
}

/** The dashboard's page: script and style are files of their server's. */
export function dashboardHtml(): string {
  return frame({
    title: 'wgsagan dashboard',
    head: '<link rel="stylesheet" href="/page.css">',
    body: '<script src="/page.js"></script>',
  }).join('');
}

function hashOf(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}

/** A page up to the end of its body, and the rest. */
function frame({
  title,
  head,
  body,
}: {
  title: string;
  head: string;
  body: string;
}): [before: string, after: string] {
  const before = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
${head}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escaped(title)}</title>
<link rel="icon" href="data:,">
</head>
<body>
<main id="page"></main>
<noscript>This page draws its charts by a script of its own: allow it to run.</noscript>
${body}`;
  return [before, '\n</body>\n</html>\n'];
}

function escaped(text: string): string {
  const names: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };
  return text.replaceAll(/[&<>]/g, (c) => names[c] ?? c);
}
