/** Reads what the launcher must know out of a plain WGSL file, so that no size or order is written twice. */

export interface Binding {
  readonly name: string;
  readonly binding: number;
  readonly access: 'read' | 'read_write';
}

export interface Immediate {
  readonly name: string;
  readonly type: 'u32' | 'i32' | 'f32';
}

const bindingPattern =
  /@group\(0\)\s*@binding\((\d+)\)\s*var<storage,\s*(read|read_write)>\s*(\w+)\s*:/g;

/** Every storage variable of group 0. Two entry points may bind different variables at one number. */
export function bindingsOf(source: string): Binding[] {
  return [...source.matchAll(bindingPattern)].map(([, binding, access, name]) => ({
    name: name ?? '',
    binding: Number(binding),
    access: access === 'read_write' ? 'read_write' : 'read',
  }));
}

/** The 4-byte fields of the struct behind `var<immediate>`, in order; none if the file has no such variable. */
export function immediatesOf(source: string): Immediate[] {
  const type = /var<immediate>\s+\w+\s*:\s*(\w+)/.exec(source)?.[1];
  if (type === undefined) return [];
  const body = new RegExp(`struct\\s+${type}\\s*\\{([^}]*)\\}`).exec(source)?.[1];
  if (body === undefined) throw new Error(`struct ${type} of the immediates is not in the file`);
  const withoutComments = body.replaceAll(/\/\/.*$/gm, '');
  return [...withoutComments.matchAll(/(\w+)\s*:\s*(\w+)/g)].map(([, name, fieldType]) => {
    if (fieldType !== 'u32' && fieldType !== 'i32' && fieldType !== 'f32') {
      throw new Error(`immediate ${name} has type ${fieldType}; only u32, i32 and f32 are used`);
    }
    return { name: name ?? '', type: fieldType };
  });
}

/** The names of a file's compute entry points. */
export function entriesOf(source: string): string[] {
  return [...source.matchAll(/@compute\b[^{;]*?\bfn\s+(\w+)/gs)].map((m) => m[1] ?? '');
}

/**
 * Gives a module-scope `const` another value: a number, or the name of another constant. Throws where there is no
 * such constant, so that a renamed tile cannot be missed.
 */
export function rewriteConst(source: string, name: string, value: number | string): string {
  const pattern = new RegExp(`^(const\\s+${name}\\s*(?::\\s*\\w+)?\\s*=\\s*)([^;]+);`, 'm');
  const old = pattern.exec(source)?.[2];
  if (old === undefined) throw new Error(`there is no module-scope const ${name} to rewrite`);
  const suffix = typeof value === 'number' ? (/^[\d.]+([uf])$/.exec(old.trim())?.[1] ?? '') : '';
  return source.replace(pattern, `$1${value}${suffix};`);
}

/** How the elements of a tensor lie in memory. */
export type Stored = 'f32' | 'f16';

/**
 * Sets what the elements of a file's tensors of `Stored` are: `alias Stored = f32;` stands in the file, f16 can take its
 * place. (`= u32` where words are moved as they are.) Throws where there is no such alias: the file then serves f32 alone.
 */
export function rewriteStored(source: string, stored: Stored): string {
  if (stored === 'f32') return source;
  const alias = /^alias Stored = (?:f32|u32);$/m;
  if (!alias.test(source)) throw new Error('there is no `alias Stored = f32;` to rewrite');
  const code = source.replace(alias, `alias Stored = ${stored};`);
  return /^enable f16;$/m.test(code) ? code : `enable f16;\n${code}`;
}

/** The number that a module-scope `const` has in the file. */
export function constOf(source: string, name: string): number {
  const text = new RegExp(`^const\\s+${name}\\s*(?::\\s*\\w+)?\\s*=\\s*([\\d.]+)[uf]?\\s*;`, 'm');
  const value = text.exec(source)?.[1];
  if (value === undefined) throw new Error(`there is no numeric module-scope const ${name}`);
  return Number(value);
}
