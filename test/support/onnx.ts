import * as ort from 'onnxruntime-web';
import type { Shape } from '../../src/util/shape.ts';

type Feed = readonly [data: Float32Array | BigInt64Array, shape: Shape];

/** The images that ONNX Runtime makes with a model, on one thread of the CPU. */
export async function runOnnx(
  model: Uint8Array,
  feeds: Readonly<Record<string, Feed>>,
): Promise<{ data: Float32Array; shape: Shape }> {
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
  const tensors = Object.entries(feeds).map(([name, [data, shape]]) => [
    name,
    data instanceof Float32Array
      ? new ort.Tensor('float32', data, shape)
      : new ort.Tensor('int64', data, shape),
  ]);
  const { images } = await session.run(
    Object.fromEntries(tensors) as ort.InferenceSession.FeedsType,
  );
  if (images === undefined) throw new Error('the model has no output images');
  await session.release();
  return { data: images.data as Float32Array, shape: images.dims };
}
