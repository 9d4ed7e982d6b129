// Makes the bundle: lays everything out as `gpu-run` will find it, compresses that, and puts beside it what is needed first.
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { SetupError, megabytes, run, sizeOf } from '../lib/process.mjs';
import { isClone, root } from '../lib/source.mjs';
import { archiveTree } from './archive.mjs';
import { isRead, packageClosure } from './closure.mjs';
import { must } from './commands.mjs';
import { copyHelpers, copyLavapipe, copyLoader, copyNeeds, foreignNeeds } from './libraries.mjs';

const LIMIT_BYTES = 60e6;
/** What the tests and `bench peers` need besides the project's own dependencies. */
const TEST_ROOTS = ['vitest', 'fast-check', 'tsx'];
/** Types alone, another system's, or for style sheets, which no test has. */
const UNNEEDED = ['@webgpu/types', '@oxc-project/types', 'fsevents', 'lightningcss'];
/** A second copy of esbuild's binary, for the shell. */
const LEFT_OUT = [join('node_modules', 'esbuild', 'bin')];

/**
 * Packs the bundle into `out`, in the place of one that is there.
 * @param {{ out: string, software?: boolean, say: (line: string) => void }} options `software`: with lavapipe and all that
 *   it needs, to prove the bundle where there is no GPU; such a one may be larger
 */
export async function packBundle({ out, software = false, say }) {
  checkBuilder();
  refuseOther(out);
  const staging = mkdtempSync(join(os.tmpdir(), 'wgsagan-pack-'));
  try {
    const [tree, made] = [join(staging, 'tree'), join(staging, 'bundle')];
    mkdirSync(made);
    say('building the project');
    await layOut(tree);
    const missing = await copyHelpers(join(tree, 'helpers'));
    if (missing.length > 0) say(`without ${missing.join(', ')}, which this machine lacks`);
    if (software) await copyLavapipe(join(tree, 'software'));

    say(`compressing ${megabytes(sizeOf(tree))}, which takes minutes the first time`);
    for (const path of await archiveTree(tree, made)) {
      say(`  ${basename(path)} ${megabytes(statSync(path).size)}`);
    }
    await addFirst(made);
    writeFileSync(join(made, 'bundle.json'), `${JSON.stringify(await describe(), null, 2)}\n`);

    const bytes = sizeOf(made);
    if (bytes > LIMIT_BYTES && !software) {
      throw new SetupError(`the bundle has ${megabytes(bytes)}; at most ${megabytes(LIMIT_BYTES)}`);
    }
    rmSync(out, { recursive: true, force: true });
    mkdirSync(dirname(out), { recursive: true });
    cpSync(made, out, { recursive: true });
    say(`${out} has ${megabytes(bytes)}: run ${join(out, 'gpu-run')} OUT there`);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

function checkBuilder() {
  if (!isClone) throw new SetupError('the bundle is made in a clone, which has the test suite');
  const here = `${process.platform} on ${process.arch}`;
  if (here !== 'linux on x64') {
    throw new SetupError(`the bundle is made on linux on x64, and this is ${here}`);
  }
  const foreign = foreignNeeds(process.execPath);
  if (foreign.length > 0) {
    throw new SetupError(
      `${process.execPath} needs ${foreign.join(', ')}: run the script with Node's official build`,
    );
  }
}

function refuseOther(out) {
  if (!existsSync(out) || readdirSync(out).length === 0) return;
  if (!existsSync(join(out, 'bundle.json'))) {
    throw new SetupError(`${out} is not empty and is no bundle: choose another --out`);
  }
}

/** bin/node, node_modules, app (as npm would install it) and suite (sources, tests, benches). */
async function layOut(tree) {
  const [app, suite] = [join(tree, 'app'), join(tree, 'suite')];
  mkdirSync(join(tree, 'bin'), { recursive: true });
  const node = join(tree, 'bin', 'node');
  copyFileSync(process.execPath, node);
  await must('strip', [node]);

  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const lean = ['--declaration', 'false', '--sourceMap', 'false', '--outDir', join(app, 'dist')];
  await must(process.execPath, [tsc, '-p', 'tsconfig.build.json', ...lean]);
  copy(['package.json', 'LICENSE', 'kernels', 'scripts', 'src/report/page'], app);
  copy(['package.json', 'tsconfig.json', 'vitest.config.ts', 'kernels'], suite);
  copy(['src', 'bench', 'test'], suite);
  // bench/peers looks there for the libraries that it compares with. None travels; PyTorch is the machine's own.
  const peers = join(suite, 'bench', 'peers');
  if (existsSync(peers)) mkdirSync(join(peers, 'node_modules'));
  copyPackages(tree);
}

/** Files and folders of the repository, without installed packages and kept results. */
function copy(names, to) {
  const filter = (path) => !/\/(node_modules|results)(\/|$)/.test(path.slice(root.length - 1));
  for (const name of names) cpSync(join(root, name), join(to, name), { recursive: true, filter });
}

function copyPackages(tree) {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  const own = Object.keys(lock.packages[''].dependencies);
  const isInstalled = (path) => existsSync(join(root, path));
  const choice = { without: UNNEEDED, isInstalled };
  for (const path of packageClosure(lock, [...own, ...TEST_ROOTS], choice)) {
    const from = join(root, path);
    if (!isInstalled(path)) {
      throw new SetupError(`${path} is not installed: run \`npm run setup\``);
    }
    // What a package has below it in node_modules is on the list itself, or is not needed.
    const filter = (file) => {
      const inside = relative(from, file);
      if (LEFT_OUT.includes(join(path, inside))) return false;
      return !inside.split('/').includes('node_modules') && isRead(inside);
    };
    cpSync(from, join(tree, path), { recursive: true, filter });
  }
}

/** What must be there before anything is unpacked: the script, xz, and the loader, which need not be compressed. */
async function addFirst(made) {
  copyFileSync(join(root, 'scripts', 'bundle', 'gpu-run'), join(made, 'gpu-run'));
  chmodSync(join(made, 'gpu-run'), 0o755);
  const { stdout } = await must('sh', ['-c', 'command -v xz']);
  const xz = join(made, 'xz');
  mkdirSync(xz);
  copyFileSync(stdout.trim(), join(xz, 'xz'));
  await copyNeeds(stdout.trim(), xz);
  await copyLoader(join(made, 'lib'));
}

/** What the bundle was made of. */
async function describe() {
  const git = async (...args) => (await run('git', args, { cwd: root })).stdout.trim();
  const { version, dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const changed = (await git('status', '--porcelain', '--untracked-files=no')) !== '';
  return {
    ...{ wgsagan: version, commit: await git('rev-parse', 'HEAD'), changed },
    ...{ node: process.versions.node, webgpu: dependencies.webgpu, made: new Date().toISOString() },
  };
}
