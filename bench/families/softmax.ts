import { canRun } from '../../src/kernels/kernel.ts';
import type { Kernel } from '../../src/kernels/kernel.ts';
import type { AnyLadder } from '../../src/kernels/ladders.ts';
import type { Ladder } from '../../src/kernels/rung.ts';
import { chooseSoftmax, softmaxLadder } from '../../src/kernels/softmax.ts';
import type { SoftmaxDims, SoftmaxRung } from '../../src/kernels/softmax.ts';
import type { Storage } from '../../src/gpu/storage.ts';
import { num } from './family.ts';
import type { CaseSizes, Family } from './family.ts';

/** One direction of softmax: the engine chooses for both at once, so that this ladder is the bench's own. */
function ladderOf<O extends string>(o: {
  name: string;
  tensors: readonly O[];
  kernel: (rung: SoftmaxRung) => Kernel<O>;
}): Ladder<SoftmaxDims, SoftmaxDims & { readonly storages: Readonly<Record<O, Storage>> }, O> {
  const [naive] = softmaxLadder;
  if (naive === undefined) throw new Error('softmax has no rung');
  const operands = ({ rows, cols }: SoftmaxDims) =>
    Object.fromEntries(o.tensors.map((name) => [name, rows * cols])) as Record<O, number>;
  return {
    name: o.name,
    rungs: softmaxLadder.map((rung) => ({
      name: o.kernel(rung).name,
      kernels: [o.kernel(rung)],
      fits: (gpu, dims) => rung.serves(dims) && canRun(gpu, o.kernel(rung)),
      tiles: () => [rung.tile],
      run: (gpu, { storages, rows, cols }, tile = rung.tile) => {
        o.kernel(rung).run(gpu, { tensors: storages, dims: { rows, cols }, tile });
      },
    })),
    preferred: (gpu, dims) => [o.kernel(chooseSoftmax(gpu, dims)).name],
    dimsOf: ({ rows, cols }) => ({ rows, cols }),
    operands,
    outputs: o.tensors.slice(-1),
    argsOf: (dims, storages) => ({ ...dims, storages }),
    flops: ({ rows, cols }) => o.kernel(naive).flops({ rows, cols }),
    bytes: ({ rows, cols }) => o.kernel(naive).bytes({ rows, cols }),
  };
}

const forward = ladderOf({
  name: 'softmax',
  tensors: ['x', 'out'],
  kernel: (rung) => rung.forward,
});
const backward = ladderOf({
  name: 'softmax-backward',
  tensors: ['y', 'dy', 'dx'],
  kernel: (rung) => rung.backward,
});

const softmaxDims = (sizes: CaseSizes): SoftmaxDims => ({
  rows: num(sizes, 'rows'),
  cols: num(sizes, 'cols'),
});

export const softmaxFamily: Family = {
  name: 'softmax',
  help: 'softmax of every row, and its gradient, every rung side by side',
  axes: [
    { name: 'rows', help: 'rows' },
    { name: 'cols', help: 'numbers in a row' },
  ],
  passes: [
    { name: 'forward', ladder: (): AnyLadder => forward, dims: softmaxDims },
    { name: 'backward', ladder: (): AnyLadder => backward, dims: softmaxDims },
  ],
  usualCases: (software) => [
    { rows: 4096, cols: 256 },
    { rows: 1024, cols: 1024 },
    ...(software ? [] : [{ rows: 16384, cols: 4096 }]),
  ],
  label: (sizes) => `${sizes['rows']} rows of ${sizes['cols']}`,
};
