import type { Tensor } from '../../autograd/tensor.ts';
import type { Net } from '../../models/gan.ts';
import { AttentionLayer } from '../../nn/attention.ts';
import { concat, reshape } from '../../ops/layout.ts';
import { mean } from '../../ops/reduce.ts';
import { avgPool2d } from '../../ops/resample.ts';
import { dim } from '../../util/shape.ts';

/** Rows and columns of a map. */
export type GridSize = readonly [rows: number, columns: number];

/** A block of a net during a forward pass, with what it was given. */
export interface SeenBlock {
  /** Where the block is in its net, as in the net's state-dict keys: `main.6`. */
  readonly name: string;
  readonly block: AttentionLayer;
  /** (N, C, H, W) */
  readonly x: Tensor;
  readonly labels: Tensor | undefined;
}

/** The attention blocks of a net by name; what a block is made of is not looked into. */
export function attentionBlocks(net: Net): ReadonlyMap<string, AttentionLayer> {
  const found = new Map<string, AttentionLayer>();
  for (const [name, module] of net.namedModules()) {
    const inside = [...found.keys()].some((outer) => name.startsWith(`${outer}.`));
    if (module instanceof AttentionLayer && !inside) found.set(name, module);
  }
  return found;
}

/** Runs a forward pass of a net and tells `see` of each attention block as it is reached, in this order. */
export function looking<T>(net: Net, forward: () => T, see: (seen: SeenBlock) => void): T {
  const blocks = attentionBlocks(net);
  for (const [name, block] of blocks) {
    block.onInput = (x, labels) => {
      see({ name, block, x, labels });
    };
  }
  try {
    return forward();
  } finally {
    for (const block of blocks.values()) block.onInput = undefined;
  }
}

/** Numbers of a map that are made at once, unless one row of blocks has more: 16 MiB. */
const mostAtOnce = 2 ** 22;

/** Maps of a block, seen from all of its positions. */
export interface CoarseMaps {
  /** (N, heads, h·w, kh·kw): from each block of positions, the mean weight of the positions of each block. */
  readonly maps: Tensor;
  readonly queries: GridSize;
  readonly keys: GridSize;
}

/**
 * Where all positions of a seen block look, in means over squares of positions: at most `mostQueries` and `mostKeys` a side.
 * Made a few rows at a time, so that the map of all positions by all is never in memory. A block whose map is the same
 * everywhere has one query.
 */
export function coarseMaps(
  { block, x, labels }: SeenBlock,
  { mostQueries, mostKeys }: { readonly mostQueries: number; readonly mostKeys: number },
): CoarseMaps {
  const [H, W] = [dim(x.shape, 2), dim(x.shape, 3)];
  const side = block.everywhere ? 1 : blockSide([H, W], mostQueries);
  const [rows, columns] = block.everywhere ? [1, 1] : [H / side, W / side];
  const width = block.everywhere ? 1 : W;
  const perRow = side * width;
  const { heads } = block;
  const atOnce = Math.max(1, Math.floor(mostAtOnce / (dim(x.shape, 0) * heads * perRow * H * W)));
  let keys: GridSize = [H, W];
  const parts: Tensor[] = [];
  for (let row = 0; row < rows; row += atOnce) {
    const n = Math.min(atOnce, rows - row);
    const queries = { first: row * perRow, count: n * perRow };
    const whole = block.maps(x, queries, labels);
    const [N = 1, , , KH = 1, KW = 1] = whole.shape;
    const keySide = blockSide([KH, KW], mostKeys);
    const planes = reshape(whole, [N, heads * queries.count, KH, KW]);
    const pooled = keySide === 1 ? planes : avgPool2d(planes, keySide);
    keys = [KH / keySide, KW / keySide];
    const all = keys[0] * keys[1];
    const split = reshape(pooled, [N * heads, n, side, columns, side, all]);
    const means = side === 1 ? split : mean(split, [2, 4]);
    parts.push(reshape(means, [N, heads, n * columns, all]));
  }
  return { maps: concat(parts, 2), queries: [rows, columns], keys };
}

/** The side of the smallest squares that divide a map and leave at most so many of them a side. */
function blockSide([H, W]: GridSize, most: number): number {
  let side = Math.max(1, Math.ceil(Math.max(H, W) / most));
  while (H % side !== 0 || W % side !== 0) side++;
  return side;
}
