/** The nets of a training step as data: every peer builds the same layers from the same list. */
import { channelsAt } from '../../src/models/sagan.ts';
import { featureSizes } from '../../src/models/sizes.ts';
import type { GanOptions } from '../../src/models/gan.ts';
import type { Shape } from '../../src/util/shape.ts';

/** A layer under the name that PyTorch's state dict gives it: `main.0`. */
export type LayerSpec =
  | (ConvSpec & { readonly type: 'conv' | 'convTranspose' })
  | { readonly type: 'batchNorm'; readonly name: string; readonly features: number }
  | {
      readonly type: 'attention';
      readonly name: string;
      readonly channels: number;
      readonly spectral: boolean;
    }
  | { readonly type: 'leakyRelu'; readonly slope: number }
  | { readonly type: 'relu' | 'tanh' };

export interface ConvSpec {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly spectral: boolean;
  /** Side of the input in pixels. */
  readonly size: number;
}

/** One training step: hinge loss, an update of D on real and made images, an update of G, Adam. */
export interface GanSpec {
  readonly batch: number;
  readonly imageSize: number;
  readonly channels: number;
  readonly latentSize: number;
  readonly generator: readonly LayerSpec[];
  readonly discriminator: readonly LayerSpec[];
  readonly adam: {
    readonly lrG: number;
    readonly lrD: number;
    readonly beta1: number;
    readonly beta2: number;
    readonly eps: number;
  };
}

/** Steps whose losses are compared before the timing begins. */
export const lossSteps = 4;

/** src/models/sagan.ts as a list; `spectral: false` leaves every spectral norm out. */
export function ganSpec(options: GanOptions, batch: number, spectral: boolean): GanSpec {
  const { imageSize, channels, latentSize, slope } = options;
  const sizes = featureSizes(imageSize);
  const at = (size: number) => channelsAt(options, size);
  const generator: LayerSpec[] = [];
  const discriminator: LayerSpec[] = [];
  const next = (list: readonly LayerSpec[]) => `main.${list.length}`;

  let from = latentSize;
  for (const size of sizes) {
    const first = size === sizes[0];
    const shape = first
      ? { stride: 1, padding: 0, size: 1 }
      : { stride: 2, padding: 1, size: size / 2 };
    const conv = { name: next(generator), from, to: at(size), kernel: 4, spectral, ...shape };
    generator.push({ type: 'convTranspose', ...conv });
    generator.push({ type: 'batchNorm', name: next(generator), features: at(size) });
    generator.push({ type: 'relu' });
    if (options.attentionG.includes(size)) {
      generator.push({ type: 'attention', name: next(generator), channels: at(size), spectral });
    }
    from = at(size);
  }
  const outer = { kernel: 4, stride: 2, padding: 1 };
  const toImage = { from, to: channels, spectral: false, size: imageSize / 2, ...outer };
  generator.push({ type: 'convTranspose', name: next(generator), ...toImage }, { type: 'tanh' });

  from = channels;
  for (const size of sizes.toReversed()) {
    const conv = {
      name: next(discriminator),
      from,
      to: at(size),
      spectral,
      size: 2 * size,
      ...outer,
    };
    discriminator.push({ type: 'conv', ...conv }, { type: 'leakyRelu', slope });
    if (options.attentionD.includes(size)) {
      const name = next(discriminator);
      discriminator.push({ type: 'attention', name, channels: at(size), spectral });
    }
    from = at(size);
  }
  const score = { from, to: 1, kernel: 4, stride: 1, padding: 0, spectral, size: 4 };
  discriminator.push({ type: 'conv', name: next(discriminator), ...score });

  // With PyTorch's eps (1e-8) and beta1 = 0 the first update of a weight is its gradient's sign, and rounding decides it
  // where the gradient is near 0: losses would agree to three digits instead of six. At the presets' rates, ten times these,
  // scores of sagan-64 come to the hinge within four steps, and of right answers some are on one side of it, some on the
  // other: PyTorch's f32 is 2e-4 off its f64. The work is the same.
  const adam = { lrG: 1e-5, lrD: 4e-5, beta1: 0, beta2: 0.9, eps: 1e-2 };
  return { batch, imageSize, channels, latentSize, generator, discriminator, adam };
}

/** State-dict keys and shapes of a net: parameters in PyTorch's order, and u of every power iteration. */
export function stateShapes(layers: readonly LayerSpec[]): [string, Shape][] {
  return layers.flatMap((layer): [string, Shape][] => {
    switch (layer.type) {
      case 'conv':
      case 'convTranspose':
        return convShapes(layer, layer.type === 'convTranspose');
      case 'batchNorm':
        return [
          [`${layer.name}.weight`, [layer.features]],
          [`${layer.name}.bias`, [layer.features]],
        ];
      case 'attention':
        return [
          [`${layer.name}.gamma`, [1]],
          ...attentionConvs(layer).flatMap((c) => convShapes(c)),
        ];
      case 'leakyRelu':
      case 'relu':
      case 'tanh':
        return [];
    }
  });
}

/** The three 1×1 convolutions of an attention block. */
export function attentionConvs(layer: {
  readonly name: string;
  readonly channels: number;
  readonly spectral: boolean;
}): ConvSpec[] {
  const { name, channels, spectral } = layer;
  const conv = { from: channels, kernel: 1, stride: 1, padding: 0, spectral, size: 0 };
  return [
    { name: `${name}.query_conv`, to: Math.max(1, Math.floor(channels / 8)), ...conv },
    { name: `${name}.key_conv`, to: Math.max(1, Math.floor(channels / 8)), ...conv },
    { name: `${name}.value_conv`, to: channels, ...conv },
  ];
}

function convShapes(conv: ConvSpec, transposed = false): [string, Shape][] {
  const { name, from, to, kernel, spectral } = conv;
  const weight = transposed ? [from, to, kernel, kernel] : [to, from, kernel, kernel];
  const shapes: [string, Shape][] = [
    [`${name}.${spectral ? 'weight_orig' : 'weight'}`, weight],
    [`${name}.bias`, [to]],
  ];
  return spectral ? [...shapes, [`${name}.weight_u`, [to]]] : shapes;
}

/** Multiplications and additions of one forward pass: convolutions and attention products. */
function forwardFlops(layers: readonly LayerSpec[], batch: number): number {
  let [flops, side] = [0, 1];
  for (const layer of layers) {
    if (layer.type === 'conv') {
      side = Math.floor((layer.size + 2 * layer.padding - layer.kernel) / layer.stride) + 1;
      flops += convFlops(layer, batch, side);
    } else if (layer.type === 'convTranspose') {
      side = (layer.size - 1) * layer.stride - 2 * layer.padding + layer.kernel;
      flops += convFlops(layer, batch, layer.size);
    } else if (layer.type === 'attention') {
      flops += attentionFlops(batch, layer.channels, side * side);
    }
  }
  return flops;
}

function convFlops(conv: ConvSpec, batch: number, side: number): number {
  return 2 * batch * side ** 2 * conv.from * conv.to * conv.kernel ** 2;
}

/** The block's 1×1 convolutions, the scores and the mix. */
export function attentionFlops(batch: number, channels: number, positions: number): number {
  const width = Math.max(1, Math.floor(channels / 8));
  const convs = channels * (2 * width + channels);
  return 2 * batch * positions * (convs + positions * (width + channels));
}

/**
 * Of a step, in forward passes: D forward and backward on two batches and its data gradient once more for G (8),
 * G forward without a gradient and forward and backward with one (4).
 */
export function stepFlops(spec: GanSpec): number {
  const { generator, discriminator, batch } = spec;
  return 4 * forwardFlops(generator, batch) + 8 * forwardFlops(discriminator, batch);
}
