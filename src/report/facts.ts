import type { Fact } from './data.ts';

/** The entries of an object as lines of a table: lists with commas, the rest as it is said in JSON. */
export function factsOf(value: unknown): Fact[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [];
  return Object.entries(value).map(([name, one]) => [name, shown(one)]);
}

function shown(value: unknown): string {
  if (typeof value === 'string') return value;
  if (Array.isArray(value)) return value.length === 0 ? 'none' : value.map(shown).join(', ');
  return JSON.stringify(value);
}
