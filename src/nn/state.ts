import { UserError } from '../util/errors.ts';
import { sameShape, showShape } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import type { Module } from './module.ts';

export interface HostTensor {
  readonly shape: Shape;
  readonly data: Float32Array;
}

/** Kept by PyTorch's batch norm, used by nobody: accepted and dropped. */
const ignoredKey = /(^|\.)num_batches_tracked$/;

/** The whole state of a module on the host, by PyTorch's keys. */
export async function readState(module: Module): Promise<Map<string, HostTensor>> {
  const out = new Map<string, HostTensor>();
  for (const [name, value] of module.stateDict()) {
    out.set(name, { shape: value.shape, data: await value.read() });
  }
  return out;
}

/** What stands between a file's tensors and a module: nothing if all four lists are empty. */
export function compareState(
  module: Module,
  found: ReadonlyMap<string, { readonly shape: Shape }>,
): { missing: string[]; surplus: string[]; misshapen: string[] } {
  const own = module.stateDict();
  const misshapen: string[] = [];
  for (const [name, value] of own) {
    const other = found.get(name);
    if (other !== undefined && !sameShape(other.shape, value.shape)) {
      misshapen.push(`${name} is ${showShape(other.shape)}, needed ${showShape(value.shape)}`);
    }
  }
  return {
    missing: [...own.keys()].filter((name) => !found.has(name)),
    surplus: [...found.keys()].filter((name) => !own.has(name) && !ignoredKey.test(name)),
    misshapen,
  };
}

/**
 * Loads every tensor, or throws a `UserError` that lists what does not meet, of each kind so many names, and changes
 * nothing.
 */
export function loadState(
  module: Module,
  state: ReadonlyMap<string, HostTensor>,
  source: string,
  { names = 4 }: { readonly names?: number } = {},
): void {
  const { missing, surplus, misshapen } = compareState(module, state);
  const complaints = [
    ...(misshapen.length > 0 ? [shorten(misshapen, names, '; ')] : []),
    ...(missing.length > 0 ? [`missing ${shorten(missing, names)}`] : []),
    ...(surplus.length > 0 ? [`not in this architecture: ${shorten(surplus, names)}`] : []),
  ];
  if (complaints.length > 0) {
    throw new UserError(`${source} is of another architecture: ${complaints.join('; ')}`);
  }
  for (const [name, value] of module.stateDict()) {
    const other = state.get(name);
    if (other !== undefined) value.set(other.data);
  }
}

function shorten(names: readonly string[], most: number, between = ', '): string {
  const shown = names.slice(0, most).join(between);
  return names.length > most ? `${shown} and ${names.length - most} more` : shown;
}
