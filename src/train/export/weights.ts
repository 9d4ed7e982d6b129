import { Tape } from '../../autograd/tape.ts';
import type { Gpu } from '../../gpu/device.ts';
import { writeFileAtomic } from '../../io/atomic.ts';
import { encodeModel } from '../../io/onnx.ts';
import { writeSafetensors } from '../../io/safetensors.ts';
import type { StoredTensor, TensorSource } from '../../io/safetensors.ts';
import type { Net } from '../../models/gan.ts';
import { loadState } from '../../nn/state.ts';
import { UserError } from '../../util/errors.ts';
import { partOf } from '../checkpoint.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { configToYaml } from '../config.ts';
import type { TrainConfig } from '../options.ts';
import { blankOther, otherNetOf } from '../nets.ts';
import { openGenerator } from '../sample.ts';
import { onnxOf } from './onnx.ts';

/** A net of a checkpoint: the generator as trained, its moving average, or the one that it is trained with. */
export const netNames = ['average', 'generator', 'discriminator', 'encoder'] as const;
export type NetName = (typeof netNames)[number];

/** The formats, by the ending of their files. */
export const exporters = { safetensors: exportSafetensors, onnx: exportOnnx } as const;
export type ExportFormat = keyof typeof exporters;

/**
 * Writes a net's state under PyTorch's keys and layouts, with the counters of its batch norms, so that `load_state_dict` is
 * strict and content. The average's statistics are those that `sample` settles. Returns how many tensors there are.
 */
async function exportSafetensors(
  gpu: Gpu,
  { checkpoint, net, out }: { checkpoint: Checkpoint; net: NetName; out: string },
): Promise<string> {
  const module = await openNet(gpu, checkpoint, net);
  const { step } = checkpoint.progress;
  const tensors = new Map<string, StoredTensor | TensorSource>();
  for (const [name, value] of module.stateDict()) {
    tensors.set(name, { dtype: 'F32', shape: value.shape, read: () => value.read() });
    if (!name.endsWith('running_var')) continue;
    const counter = name.replace(/running_var$/, 'num_batches_tracked');
    tensors.set(counter, { dtype: 'I64', shape: [], data: BigInt64Array.of(BigInt(step)) });
  }
  await writeSafetensors(out, tensors, { format: 'pt', ...metadataOf(checkpoint, net) });
  return `${tensors.size} tensors, ${module.parameterCount()} parameters`;
}

/** Writes a generator as an ONNX model, `onnxOf`. Returns how many nodes it has. */
async function exportOnnx(
  gpu: Gpu,
  { checkpoint, net, out }: { checkpoint: Checkpoint; net: NetName; out: string },
): Promise<string> {
  const graph = await onnxOf(await openNet(gpu, checkpoint, net), checkpoint.config);
  await writeFileAtomic(out, encodeModel(graph, metadataOf(checkpoint, net)));
  return `${graph.nodes.length} nodes`;
}

/** Throws a `UserError` for a net that the preset has not. */
export function checkNet({ preset }: TrainConfig, net: NetName): void {
  const other = otherNetOf(preset);
  if (net === 'average' || net === 'generator' || net === other) return;
  throw new UserError(
    `--net ${net}: ${preset} has none; there are average, generator and ${other}`,
  );
}

async function openNet(gpu: Gpu, checkpoint: Checkpoint, net: NetName): Promise<Net> {
  const tape = new Tape(gpu);
  if (net === 'discriminator' || net === 'encoder') {
    const other = blankOther(tape, checkpoint.config);
    loadState(other, partOf(checkpoint, net), `checkpoint ${checkpoint.path}`);
    return other;
  }
  const weights = net === 'average' ? 'ema' : 'last';
  const { generator, sampler } = await openGenerator(tape, checkpoint, { weights });
  sampler.close();
  return generator;
}

/** What a file says of itself: enough to build the net again. */
function metadataOf({ config, progress }: Checkpoint, net: NetName): Record<string, string> {
  const { step, classes } = progress;
  return {
    kind: `wgsagan ${net}`,
    preset: config.preset,
    step: String(step),
    ...(classes === undefined ? {} : { classes: JSON.stringify(classes) }),
    config: configToYaml(config),
  };
}
