import { grad, Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
import type { Gpu } from '../gpu/device.ts';
import { matmul } from '../ops/matmul.ts';
import { sum } from '../ops/reduce.ts';

/**
 * A product and its gradient on the device, small enough to know by heart: whether the driver compiles and computes.
 * Throws where it does not.
 */
export async function selfCheck(gpu: Gpu): Promise<void> {
  const tape = new Tape(gpu);
  const a = tensor(tape, [1, 2, 3, 4, 5, 6], [2, 3], { requiresGrad: true });
  const b = tensor(tape, [1, 0, 0, 1, 1, 1], [3, 2]);
  const product = matmul(a, b);
  const [da] = grad([sum(product)], [a]);
  const got = [...(await product.read()), ...((await da?.read()) ?? [])].join();
  const expected = '4,5,10,11,1,1,2,1,1,2';
  if (got !== expected) throw new Error(`the device computed ${got}, expected ${expected}`);
}
