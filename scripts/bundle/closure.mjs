// What of node_modules a program needs at run time: pure functions over package-lock.json and over paths.

/**
 * The folders of the packages that `roots` need, themselves included, as package-lock.json names them
 * (`node_modules/a/node_modules/b`), sorted. Optional dependencies are taken where `isInstalled`, optional peers never.
 * Throws where a needed package is not in the lock.
 * @param {{ packages: Record<string, object> }} lock
 * @param {string[]} roots
 * @param {{ without?: string[], isInstalled?: (path: string) => boolean }} options `without`: names to leave out
 */
export function packageClosure(lock, roots, { without = [], isInstalled = () => true } = {}) {
  const found = new Set();
  const visit = (name, from, optional) => {
    if (without.includes(name)) return;
    const path = resolvePackage(lock, name, from);
    if (path === null || (optional && !isInstalled(path))) {
      if (optional) return;
      throw new Error(`${from || 'the root'} needs ${name}, which package-lock.json lacks`);
    }
    if (found.has(path)) return;
    found.add(path);
    const { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta } =
      lock.packages[path];
    for (const need of Object.keys(dependencies ?? {})) visit(need, path, false);
    for (const need of Object.keys(optionalDependencies ?? {})) visit(need, path, true);
    for (const need of Object.keys(peerDependencies ?? {})) {
      if (!peerDependenciesMeta?.[need]?.optional) visit(need, path, false);
    }
  };
  for (const root of roots) visit(root, '', false);
  return [...found].sort();
}

/** Node's own search: beside the packages of `from`, then one folder up after the other. Null where there is none. */
function resolvePackage(lock, name, from) {
  for (let folder = from; ;) {
    const path = `${folder}${folder && '/'}node_modules/${name}`;
    if (lock.packages[path]) return path;
    if (folder === '') return null;
    const up = folder.lastIndexOf('node_modules/');
    folder = folder.slice(0, up).replace(/\/$/, '');
  }
}

const UNREAD = /\.(d\.[cm]?ts|map|md|markdown|flow)$/i;
const LICENSE = /^(licen[cs]e|notice|copying)/i;
/** Prebuilt binaries of other systems. */
const FOREIGN = /(^|\/)(darwin|win32|linux-arm64)[^/]*\//;

/** Is a file of a package read when it runs? Declarations, source maps, manuals and other systems' binaries are not. */
export function isRead(path) {
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (LICENSE.test(name)) return true;
  return !UNREAD.test(name) && !FOREIGN.test(path);
}
