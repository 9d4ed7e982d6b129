// Debian's version order, dependency fields and apt sources: pure functions over their texts.

/** Debian's order of versions (deb-version(7)): negative, zero or positive. */
export function compareVersions(a, b) {
  const [left, right] = [a, b].map(splitVersion);
  return (
    left.epoch - right.epoch ||
    comparePart(left.upstream, right.upstream) ||
    comparePart(left.revision, right.revision)
  );
}

function splitVersion(version) {
  const [, epoch, rest] = /^(?:(\d+):)?(.*)$/.exec(version.trim());
  const dash = rest.lastIndexOf('-');
  return {
    epoch: Number(epoch ?? 0),
    upstream: dash < 0 ? rest : rest.slice(0, dash),
    revision: dash < 0 ? '' : rest.slice(dash + 1),
  };
}

// Alternates text and number; in text `~` sorts before the end, letters before all else.
function comparePart(a, b) {
  const rank = (c) => {
    if (c === '~') return -1;
    if (c === undefined || /\d/.test(c)) return 0;
    return /[a-zA-Z]/.test(c) ? c.charCodeAt(0) : c.charCodeAt(0) + 256;
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    while ((i < a.length && !/\d/.test(a[i])) || (j < b.length && !/\d/.test(b[j]))) {
      const difference = rank(a[i]) - rank(b[j]);
      if (difference !== 0) return difference;
      i++;
      j++;
    }
    const left = /^\d*/.exec(a.slice(i))[0];
    const right = /^\d*/.exec(b.slice(j))[0];
    const difference = Number(left || 0) - Number(right || 0);
    if (difference !== 0) return difference;
    i += left.length;
    j += right.length;
  }
  return 0;
}

/** Does `version` satisfy a relation such as `>= 2.4.121`? An empty relation is always satisfied. */
export function satisfies(version, relation) {
  const match = /^(<<|<=|=|>=|>>)\s*(\S+)$/.exec(relation.trim());
  if (!match) return true;
  const order = compareVersions(version, match[2]);
  return { '<<': order < 0, '<=': order <= 0, '=': order === 0, '>=': order >= 0, '>>': order > 0 }[
    match[1]
  ];
}

/**
 * A Depends field: a list of choices, each a list of alternatives.
 * @returns {{ name: string, relation: string }[][]}
 */
export function parseDepends(field) {
  return field
    .split(',')
    .map((choice) =>
      choice
        .split('|')
        .map((one) => /^\s*([a-z0-9.+-]+)(?::\w+)?\s*(?:\(([^)]*)\))?/.exec(one))
        .filter((match) => match !== null)
        .map((match) => ({ name: match[1], relation: match[2]?.trim() ?? '' })),
    )
    .filter((choice) => choice.length > 0);
}

/** RFC 822-like paragraphs: `apt-cache show`, deb822 sources. Keys in lower case, continuation lines kept. */
export function parseParagraphs(text) {
  const paragraphs = [];
  for (const block of text.split(/\n[ \t]*\n/)) {
    const fields = {};
    let key;
    for (const line of block.split('\n')) {
      if (line.startsWith('#')) continue;
      const match = /^([A-Za-z0-9-]+):(.*)$/.exec(line);
      if (match) {
        key = match[1].toLowerCase();
        fields[key] = match[2].trim();
      } else if (key !== undefined && /^[ \t]/.test(line)) fields[key] += `\n${line}`;
    }
    if (Object.keys(fields).length > 0) paragraphs.push(fields);
  }
  return paragraphs;
}

/**
 * @typedef {{ uris: string[], suites: string[], components: string[], options: Record<string, string> }} Source
 * Binary package sources of a file in either of apt's two forms.
 * @param {string} text
 * @param {'list' | 'sources'} form
 * @returns {Source[]}
 */
export function parseSources(text, form) {
  return form === 'list' ? parseOneLine(text) : parseDeb822(text);
}

const KEPT = { 'signed-by': 'Signed-By', trusted: 'Trusted', architectures: 'Architectures' };

function parseDeb822(text) {
  const words = (field) => (field ?? '').split(/\s+/).filter(Boolean);
  return parseParagraphs(text)
    .filter((p) => words(p.types).includes('deb') && !/^(no|false)$/i.test(p.enabled ?? ''))
    .map((p) => ({
      uris: words(p.uris),
      suites: words(p.suites),
      components: words(p.components),
      options: Object.fromEntries(
        Object.entries(KEPT).flatMap(([key, name]) => (p[key] ? [[name, p[key]]] : [])),
      ),
    }));
}

function parseOneLine(text) {
  const sources = [];
  for (const line of text.split('\n')) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)/.exec(line);
    if (!match) continue;
    const options = {};
    for (const option of (match[1] ?? '').split(/\s+/).filter(Boolean)) {
      const [key, value] = option.split('=');
      const name = KEPT[key === 'arch' ? 'architectures' : key.toLowerCase()];
      if (name && value) options[name] = value.replaceAll(',', ' ');
    }
    const components = match[4].split(/\s+/).filter(Boolean);
    sources.push({ uris: [match[2]], suites: [match[3]], components, options });
  }
  return sources;
}

const ALIASES = ['stable', 'oldstable', 'testing', 'unstable', 'sid'];

/**
 * The distribution's own sources among a machine's, as one deb822 text: third parties' and disc images are left out.
 * With `backports`, each release suite's backports are added from the mirror that serves the suite.
 * Returns '' where the machine has none for `codename`.
 * @param {Source[]} sources
 */
export function ownSources(sources, { codename, backports = false }) {
  const isRelease = (suite) => suite === codename || ALIASES.includes(suite);
  const isOurs = (suite) => isRelease(suite.replace(/[-/](updates|security)$/, ''));
  const paragraphs = [];
  for (const source of sources) {
    const uris = source.uris.filter((uri) => !uri.startsWith('cdrom:'));
    const suites = source.suites.filter(isOurs);
    const components = source.components.filter((c) => c === 'main' || c === 'universe');
    if (uris.length === 0 || suites.length === 0 || components.length === 0) continue;
    if (backports) suites.push(...suites.filter(isRelease).map((suite) => `${suite}-backports`));
    const lines = [
      'Types: deb',
      `URIs: ${uris.join(' ')}`,
      `Suites: ${[...new Set(suites)].join(' ')}`,
      `Components: ${components.join(' ')}`,
      ...Object.entries(source.options).map(([name, value]) => `${name}: ${value}`),
    ];
    paragraphs.push(lines.join('\n') + '\n');
  }
  return paragraphs.join('\n');
}
