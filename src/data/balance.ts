import type { HostRng } from '../util/philox.ts';

/**
 * `n` indices in which each class that has an image occurs as often as any other, or once more: rounds of all classes, each
 * in an order of its own. Of a class every image comes once before any comes again; which of a large class come at all is
 * up to `rng`. `labels` [images].
 */
export function balancedOrder(labels: Uint32Array, n: number, rng: HostRng): Uint32Array {
  const classes = membersOf(labels);
  const decks = classes.map((members) => ({
    members,
    order: rng.permutation(members.length),
    at: 0,
  }));
  const out = new Uint32Array(n);
  let round = rng.permutation(decks.length);
  for (let i = 0; i < n; i++) {
    const turn = i % decks.length;
    if (turn === 0 && i > 0) round = rng.permutation(decks.length);
    const deck = decks[round[turn] ?? 0];
    if (deck === undefined) throw new RangeError('no class has an image');
    if (deck.at === deck.order.length) {
      deck.order = rng.permutation(deck.members.length);
      deck.at = 0;
    }
    out[i] = deck.members[deck.order[deck.at++] ?? 0] ?? 0;
  }
  return out;
}

/** The images of each class that has any. */
function membersOf(labels: Uint32Array): Uint32Array[] {
  const counts: number[] = [];
  for (const label of labels) counts[label] = (counts[label] ?? 0) + 1;
  const members = new Map<number, Uint32Array>();
  for (const label of Object.keys(counts).map(Number)) {
    members.set(label, new Uint32Array(counts[label] ?? 0));
    counts[label] = 0;
  }
  for (const [image, label] of labels.entries()) {
    const at = counts[label] ?? 0;
    const those = members.get(label);
    if (those !== undefined) those[at] = image;
    counts[label] = at + 1;
  }
  return [...members.values()];
}
