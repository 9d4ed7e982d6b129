import { at, defineOp, only } from '../autograd/op.ts';
import type { Op } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import * as kernels from '../kernels/embedding.ts';
import { dim, showShape } from '../util/shape.ts';

/** Rows of a table [classes, D] by index [n] (u32) → [n, D]. */
const gatherOp: Op<{ classes: number }> = defineOp({
  name: 'embedding',
  dtypes: ['f32', 'u32'],
  infer: (inputs) => [{ shape: [...at(inputs, 1).shape, dim(at(inputs, 0).shape, 1)] }],
  forward: (gpu, { inputs, outputs }) => {
    const [table, index] = [at(inputs, 0), at(inputs, 1)];
    kernels.embedding(gpu, {
      table: table.storage,
      index: index.storage,
      out: only(outputs).storage,
      rows: index.size,
      D: dim(table.shape, 1),
    });
  },
  saves: (inputs) => [at(inputs, 1)],
  backward: ({ grads, saved, attrs }) => [
    () => only(scatterOp([at(grads, 0) as Tensor, at(saved, 0)], attrs)),
    undefined,
  ],
});

/** Adds each row to its table entry, in the order of the indices: the same bits every time. */
const scatterOp: Op<{ classes: number }> = defineOp({
  name: 'embeddingBackward',
  dtypes: ['f32', 'u32'],
  infer: (inputs, { classes }) => [{ shape: [classes, dim(at(inputs, 0).shape, -1)] }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [dOut, index] = [at(inputs, 0), at(inputs, 1)];
    kernels.embeddingBackward(gpu, {
      dOut: dOut.storage,
      index: index.storage,
      dTable: only(outputs).storage,
      count: index.size,
      classes: attrs.classes,
      D: dim(dOut.shape, -1),
    });
  },
  saves: (inputs) => [at(inputs, 1)],
  backward: ({ grads, saved, attrs }) => [
    () => only(gatherOp([at(grads, 0) as Tensor, at(saved, 0)], attrs)),
    undefined,
  ],
});

/**
 * torch.nn.functional.embedding: index […] (u32) → rows […, D] of the table [classes, D]. The indices are on the GPU and
 * nobody looks at them: one that is not below `classes` gives a row of zeros and no gradient, where PyTorch throws. A
 * caller that knows them on the host checks them there. Throws a RangeError for another table or other indices.
 */
export function embedding(index: Tensor, table: Tensor): Tensor {
  if (table.shape.length !== 2 || index.dtype !== 'u32') {
    throw new RangeError(
      `embedding: table is ${showShape(table.shape)} and index is ${index.dtype} ${showShape(index.shape)}; a [classes, D] table and u32 indices are needed`,
    );
  }
  return only(gatherOp([table, index], { classes: dim(table.shape, 0) }));
}
