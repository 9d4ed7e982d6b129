// The import table of DESIGN §2, read from the syntax tree of every file: static, side-effect, type-only and dynamic
// imports alike.
import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, normalize, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** What a folder of src may import besides itself. */
const table: Readonly<Record<string, readonly string[]>> = {
  util: [],
  io: ['util'],
  data: ['util', 'io'],
  gpu: ['util'],
  kernels: ['util', 'gpu'],
  autograd: ['util', 'gpu', 'kernels'],
  ops: ['util', 'kernels', 'autograd'],
  nn: ['util', 'autograd', 'ops'],
  optim: ['util', 'autograd', 'ops', 'kernels'],
  models: ['util', 'autograd', 'ops', 'nn'],
  train: ['util', 'io', 'data', 'gpu', 'kernels', 'autograd', 'ops', 'nn', 'optim', 'models'],
  // The pages of runs: what is read of a run folder, the page that it becomes, and who serves it.
  report: ['util', 'io', 'gpu', 'train'],
  // Opens the Gpu and the data set, hands both to train or to the bench, prints.
  cli: ['util', 'io', 'data', 'gpu', 'train', 'report', 'bench'],
};

/** What bench/ may import besides itself: whatever it measures, and the loops that it holds it to. */
const ofBench = [
  ...Object.keys(table).filter((folder) => !['cli', 'report'].includes(folder)),
  'reference',
];

/**
 * `autograd` launches few kernels: the sum in which gradients meet, the ones they start from, and the casts by which those of
 * f16 and f32 meet.
 */
const autogradKernels = ['src/kernels/pointwise.ts', 'src/kernels/cast.ts'];

const engine = ['util', 'gpu', 'kernels', 'autograd', 'ops', 'nn', 'optim', 'models'];

interface Source {
  /** From the repository's root, with forward slashes. */
  readonly path: string;
  readonly text: string;
  readonly tree: ts.SourceFile;
}

function sourcesOf(folder: string): Source[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => {
      const file = join(entry.parentPath, entry.name);
      const text = readFileSync(file, 'utf8');
      const tree = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
      return { path: relative(root, file).split(sep).join('/'), text, tree };
    });
}

function visit(node: ts.Node, see: (node: ts.Node) => void): void {
  see(node);
  node.forEachChild((child) => {
    visit(child, see);
  });
}

/** Every module that a file names, as written. */
function importsOf(tree: ts.SourceFile): string[] {
  const found: string[] = [];
  visit(tree, (node) => {
    const name =
      ts.isImportDeclaration(node) || ts.isExportDeclaration(node)
        ? node.moduleSpecifier
        : ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)
          ? node.argument.literal
          : ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword
            ? node.arguments[0]
            : undefined;
    if (name !== undefined) found.push(ts.isStringLiteral(name) ? name.text : name.getText());
  });
  return found;
}

function identifiers(tree: ts.SourceFile): Set<string> {
  const names = new Set<string>();
  visit(tree, (node) => {
    if (ts.isIdentifier(node)) names.add(node.text);
  });
  return names;
}

const folderOf = (path: string) => path.split('/')[1] ?? '';

/** The folder of src that a path lies in; `bench`, or `reference` for test/reference; nothing for anywhere else. */
function areaOf(path: string): string {
  if (path.startsWith('src/') || path.startsWith('test/reference/')) return folderOf(path);
  return path.startsWith('bench/') ? 'bench' : '';
}

/** A file's own modules, from the repository's root. */
const ownImports = ({ path, tree }: Source) =>
  importsOf(tree)
    .filter((name) => name.startsWith('.'))
    .map((name) =>
      normalize(join(dirname(path), name))
        .split(sep)
        .join('/'),
    );
const isNode = (name: string) => name.startsWith('node:') || builtinModules.includes(name);

const src = sourcesOf('src');
const tests = sourcesOf('test');
// The peers are a package of their own.
const bench = sourcesOf('bench').filter(({ path }) => !path.startsWith('bench/peers/'));

describe('layering', () => {
  test('the walk sees every kind of import', () => {
    const text = `
      import a from './a.ts';
      import type { B } from './b.ts';
      import './c.ts';
      export { d } from './d.ts';
      const e = await import('./e.ts');
      let f: import('./f.ts').F;
    `;
    const tree = ts.createSourceFile('x.ts', text, ts.ScriptTarget.Latest, true);
    expect(importsOf(tree)).toEqual(['./a.ts', './b.ts', './c.ts', './d.ts', './e.ts', './f.ts']);
  });

  test('every folder of src is in the import table', () => {
    expect([...new Set(src.map(({ path }) => folderOf(path)))].sort()).toEqual(
      Object.keys(table).sort(),
    );
  });

  test('a file of src imports only what its folder may', () => {
    const wrong: string[] = [];
    for (const source of src) {
      const { path } = source;
      const folder = folderOf(path);
      const allowed = [folder, ...(table[folder] ?? [])];
      for (const target of ownImports(source)) {
        const inside = allowed.includes(areaOf(target));
        const stray =
          folder === 'autograd' &&
          folderOf(target) === 'kernels' &&
          !autogradKernels.includes(target);
        if (!inside || stray) wrong.push(`${path} imports ${target}`);
        if (!target.endsWith('.ts')) wrong.push(`${path} imports ${target} without .ts`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test('bench imports the engine, the trainer and the reference, and never the command line', () => {
    const allowed = ['bench', ...ofBench];
    const wrong = bench.flatMap((source) =>
      ownImports(source)
        .filter((target) => !allowed.includes(areaOf(target)) || !target.endsWith('.ts'))
        .map((target) => `${source.path} imports ${target}`),
    );
    expect(wrong).toEqual([]);
    expect(bench.flatMap(ownImports).map(areaOf)).toContain('reference');
  });

  test('the reference imports nothing but itself, so that it can be installed with the bench', () => {
    const reference = tests.filter(({ path }) => path.startsWith('test/reference/'));
    const wrong = reference.flatMap((source) =>
      importsOf(source.tree)
        .filter((name) => !/^\.\/[\w-]+\.ts$/.test(name))
        .map((name) => `${source.path} imports ${name}`),
    );
    expect(reference.length).toBeGreaterThan(5);
    expect(wrong).toEqual([]);
  });

  test('only platform.ts of the engine uses Node or a package', () => {
    const wrong: string[] = [];
    const globals = ['process', 'Buffer', '__dirname', 'require', 'setImmediate'];
    for (const { path, tree } of src) {
      if (!engine.includes(folderOf(path)) || path === 'src/gpu/platform.ts') continue;
      for (const name of importsOf(tree)) {
        if (!name.startsWith('.')) wrong.push(`${path} imports ${name}`);
      }
      const names = identifiers(tree);
      for (const name of globals) if (names.has(name)) wrong.push(`${path} names ${name}`);
    }
    expect(wrong).toEqual([]);
    const door = src.find(({ path }) => path === 'src/gpu/platform.ts');
    expect(importsOf(door!.tree).some(isNode)).toBe(true);
  });

  test('only src/gpu names the types of WebGPU', () => {
    const wrong = src
      .filter(({ path }) => folderOf(path) !== 'gpu')
      .flatMap(({ path, tree }) =>
        [...identifiers(tree)].filter((n) => /^GPU[A-Z]/.test(n)).map((n) => `${path}: ${n}`),
      );
    expect(wrong).toEqual([]);
  });

  test('only src/kernels reads kernel texts', () => {
    const wrong = src
      .filter(({ path }) => !['kernels', 'gpu'].includes(folderOf(path)))
      .filter(({ tree }) => identifiers(tree).has('readText'))
      .map(({ path }) => path);
    expect(wrong).toEqual([]);
  });
});

describe('house rules', () => {
  test('every random number comes from Philox or a seed: nothing calls Math.random', () => {
    const wrong: string[] = [];
    for (const { path, tree } of [...src, ...bench, ...tests]) {
      visit(tree, (node) => {
        if (ts.isPropertyAccessExpression(node) && node.getText() === 'Math.random') {
          wrong.push(path);
        }
      });
    }
    expect(wrong).toEqual([]);
  });

  test('no file has a default export', () => {
    const wrong: string[] = [];
    for (const { path, tree } of [...src, ...bench, ...tests]) {
      visit(tree, (node) => {
        const modifiers = ts.canHaveModifiers(node) ? (ts.getModifiers(node) ?? []) : [];
        const marked = modifiers.some((m) => m.kind === ts.SyntaxKind.DefaultKeyword);
        if (marked || ts.isExportAssignment(node)) wrong.push(path);
      });
    }
    expect(wrong).toEqual([]);
  });

  test('no file of src is a barrel: re-exports and nothing of its own', () => {
    const wrong = src
      .filter(({ tree }) =>
        tree.statements.every((s) => ts.isExportDeclaration(s) || ts.isImportDeclaration(s)),
      )
      .filter(({ tree }) => tree.statements.some((s) => ts.isExportDeclaration(s)))
      .map(({ path }) => path);
    expect(wrong).toEqual([]);
  });

  test('no file of src passes 400 lines', () => {
    const wrong = src
      .map(({ path, text }) => ({ path, lines: text.trimEnd().split('\n').length }))
      .filter(({ lines }) => lines > 400);
    expect(wrong).toEqual([]);
  });

  test('no two tests of a file have one title', () => {
    const all = tests.map(({ path, tree }) => ({ path, titles: titlesOf(tree) }));
    const wrong = all.flatMap(({ path, titles }) =>
      titles.filter((title, i) => titles.indexOf(title) !== i).map((title) => `${path}: ${title}`),
    );
    expect(all.flatMap(({ titles }) => titles).length).toBeGreaterThan(200);
    expect(wrong).toEqual([]);
  });
});

/** Titles as written, with those of the describes around: `describe › test`. */
function titlesOf(tree: ts.SourceFile): string[] {
  const titles: string[] = [];
  const walk = (node: ts.Node, path: readonly string[]): void => {
    let below = path;
    if (ts.isCallExpression(node)) {
      const callee = node.expression.getText().split(/[.(]/)[0] ?? '';
      const title = node.arguments[0];
      const named =
        title !== undefined &&
        (ts.isStringLiteralLike(title) || ts.isTemplateExpression(title)) &&
        node.arguments.length > 1;
      if (named && ['test', 'it', 'describe'].includes(callee)) {
        below = [...path, title.getText().slice(1, -1)];
        if (callee !== 'describe') titles.push(below.join(' › '));
      }
    }
    node.forEachChild((child) => {
      walk(child, below);
    });
  };
  walk(tree, []);
  return titles;
}
