import type { Net } from '../models/gan.ts';
import type { Adam } from '../optim/adam.ts';
import type { NamedParameters } from '../optim/optimizer.ts';

/** The parameters that an optimiser moves together: all of a net's, or those of each part of one that grows. */
export function groupsOf(net: Net): NamedParameters[] {
  const named = [...net.namedParameters()];
  if (net.growth === undefined) return [named];
  return net.growth.parts.map((part) => {
    const own = new Set(part.parameters());
    return named.filter(([, parameter]) => own.has(parameter));
  });
}

/** Leaves what is not in a net's forward pass as it is; the optimiser's groups are `groupsOf`. */
export function freezeAbsent({ groups }: Adam, { growth }: Net): void {
  growth?.parts.forEach((part, i) => {
    const group = groups[i];
    if (group !== undefined) group.frozen = !growth.has(part);
  });
}
