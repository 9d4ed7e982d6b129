// Keeps the generated parts of README.md, each between two HTML comments, true.
//   node scripts/readme.mjs                            the tables of options and presets, from the config schema
//   node scripts/readme.mjs --run DIR [--start LOG] [--test LOG]
//                                                      also the demo: pictures and numbers of a run folder, and what
//                                                      `npm start` and `npm test` printed into those files
// The tables of measurements are `wgsagan bench report`'s, which both call.
//   node scripts/readme.mjs --check                    changes nothing; exit code 1 where the tables are out of date
import { copyFileSync, mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs, stripVTControlCharacters } from 'node:util';
import { parse } from 'yaml';
import { SetupError, writeWhole } from './lib/process.mjs';
import { load, root, runCli } from './lib/source.mjs';
import { runScript } from './setup.mjs';

const file = join(root, 'README.md');

/** The text with what stands between the markers of `name` replaced. */
function fill(text, name, body) {
  const [begin, end] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new SetupError(`README.md lacks ${begin} … ${end}`);
  return `${text.slice(0, from + begin.length)}\n\n${body}\n\n${text.slice(to)}`;
}

/** A Markdown table, its columns padded as prettier pads them. */
function table(head, rows) {
  const cells = [head, ...rows].map((row) =>
    row.map((cell) => String(cell).replaceAll('|', '\\|')),
  );
  const widths = head.map((_, i) => Math.max(3, ...cells.map((row) => row[i].length)));
  const line = (row) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`;
  const rule = line(widths.map((width) => '-'.repeat(width)));
  return [line(cells[0]), rule, ...cells.slice(1).map(line)].join('\n');
}

/** A value as one types it. */
function typed(value) {
  if (value === undefined) return '–';
  if (value === false) return 'off';
  return `\`${Array.isArray(value) ? value.join(',') : value}\``;
}

async function optionsTable() {
  const { resolveConfig } = await load('train/config');
  const { configSchema } = await load('train/options');
  const { optionName } = await load('train/check');
  const defaults = resolveConfig({ data: 'x', preset: 'sagan-32' });
  const rows = Object.entries(configSchema.shape).map(([key, schema]) => [
    `\`--${optionName(key)}\``,
    key === 'data' ? '–' : typed(defaults[key]),
    schema.description,
  ]);
  return table(['option', 'default', 'meaning'], rows);
}

async function presetsTable() {
  const { resolveConfig } = await load('train/config');
  const { presetNames } = await load('models/presets');
  const rows = presetNames.map((preset) => {
    const c = resolveConfig({ data: 'x', preset });
    return [
      ...[`\`${preset}\``, `${c.imageSize}×${c.imageSize}`, c.width, c.latentSize],
      ...[c.attentionG.join(), c.attentionD.join(), c.batch, `${c.lrG} / ${c.lrD}`],
      `${c.emaDecay} from ${c.emaStart}`,
    ];
  });
  const head = [
    ...['preset', 'images', 'width', 'latent', 'attention in G', 'in D', 'batch'],
    ...['lr of G / D', 'EMA'],
  ];
  return table(head, rows);
}

/** Copies the run's pictures and says in numbers what it was. */
function demo(run) {
  const samples = join(run, 'samples');
  const grid = readdirSync(samples)
    .filter((name) => /^step-\d+\.png$/.test(name))
    .sort()
    .at(-1);
  if (grid === undefined) throw new SetupError(`${samples} holds no grid`);
  const images = join(root, 'docs', 'images');
  mkdirSync(images, { recursive: true });
  copyFileSync(join(samples, grid), join(images, 'demo-grid.png'));
  copyFileSync(join(run, 'losses.svg'), join(images, 'demo-losses.svg'));

  const config = parse(readFileSync(join(run, 'config.yaml'), 'utf8'));
  const lines = readFileSync(join(run, 'metrics.jsonl'), 'utf8').trim().split('\n');
  const last = JSON.parse(lines.at(-1));
  const steps = Number(/\d+/.exec(grid)[0]);
  const rate = (last.step * config.batch * config['d-steps']) / last.seconds;
  const size = `${config['image-size']}×${config['image-size']}`;
  return [
    `<img src="docs/images/demo-grid.png" width="544" alt="64 images of ${size} pixels from the averaged generator">`,
    '',
    '![losses of both nets over the steps](docs/images/demo-losses.svg)',
    '',
    `The demo's run: \`${config.preset}\` on \`${config.data}\`, ${steps} steps of batch ${config.batch}, ` +
      `${last.seconds.toFixed(0)} seconds of training at ${rate.toFixed(0)} images/s (seed ${config.seed}). ` +
      'The grid is of the averaged weights at the last step, nothing picked.',
  ].join('\n');
}

/** What a command printed, without colours and without the lines that a progress bar drew over. */
function printed(command, log) {
  const text = stripVTControlCharacters(readFileSync(log, 'utf8'));
  const lines = text.split('\n').map((line) => line.slice(line.lastIndexOf('\r') + 1).trimEnd());
  const own = lines
    .filter(
      (line) => !/^(> |npm (warn|notice)|Warning: max\w+ artificially|JSON report)/.test(line),
    )
    // Where this machine keeps things is nobody's business.
    .map((line) => line.replace(/\S+(?=\/\.cache\/)/, '~').replace(/^( RUN +v\S+) .*/, '$1'));
  const shown = own.join('\n').trim().split('\n');
  // A long log shows how it begins and how it ends.
  const [head, tail] = [12, 9];
  const cut = shown.length - head - tail;
  if (cut > 20) shown.splice(head, cut, `… ${cut} lines`);
  return ['```console', `$ ${command}`, ...shown, '```'].join('\n');
}

async function main() {
  const { values } = parseArgs({
    options: {
      run: { type: 'string' },
      start: { type: 'string' },
      test: { type: 'string' },
      check: { type: 'boolean', default: false },
    },
  });
  const before = readFileSync(file, 'utf8');
  let text = fill(before, 'options', await optionsTable());
  text = fill(text, 'presets', await presetsTable());
  if (values.check) {
    for (const name of ['start', 'demo', 'test']) {
      const empty = fill(before, name, '').replace(/\n+/g, '\n');
      if (empty === before.replace(/\n+/g, '\n'))
        throw new SetupError(`README.md: ${name} is empty`);
    }
    if (text === before) return benchReport('--check');
    throw new SetupError('README.md is out of date: run `node scripts/readme.mjs`');
  }
  if (values.run) text = fill(text, 'demo', demo(values.run));
  if (values.start) text = fill(text, 'start', printed('npm start', values.start));
  if (values.test) text = fill(text, 'test', printed('npm test', values.test));
  writeWhole(file, text);
  return benchReport();
}

/** The tables of measurements, from bench/results, in every page that has some. */
async function benchReport(...flags) {
  const results = join(root, 'bench', 'results');
  let code = 0;
  const pages = [
    file,
    ...['performance', 'evaluation'].map((name) => join(root, 'docs', `${name}.md`)),
  ];
  for (const page of pages) {
    const told = await runCli([
      'bench',
      'report',
      '--readme',
      page,
      '--results',
      results,
      ...flags,
    ]);
    code = code === 0 ? told : code;
  }
  return code;
}

await runScript(main);
