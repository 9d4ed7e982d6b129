import type { Tape } from '../autograd/tape.ts';
import { to } from '../autograd/cast.ts';
import { tensor } from '../autograd/tensor.ts';
import type { DType, FloatType, Tensor } from '../autograd/tensor.ts';
import { spectralNormalize, spectralSizes } from '../ops/spectral.ts';
import type { SpectralLayer } from '../ops/spectral.ts';
import type { HostRng } from '../util/philox.ts';
import type { Shape } from '../util/shape.ts';
import { biasLike, kaimingUniform } from './init.ts';
import type { Init } from './init.ts';
import { Layer } from './module.ts';

export interface WeightOptions {
  /** Where the first weights come from. */
  readonly rng: HostRng;
  /** Default: PyTorch's own, U(±1/√fan_in). */
  readonly init?: Init | undefined;
  /** Default true. Zero if `init` is given, PyTorch's U(±1/√fan_in) otherwise. */
  readonly bias?: boolean | undefined;
}

export interface SpectralNormOptions {
  readonly rng: HostRng;
  readonly eps?: number;
  /**
   * Power iterations made at once, so that the first steps do not see an estimate far below σ. Default 15, as
   * torch.nn.utils.parametrizations.spectral_norm.
   */
  readonly warmUp?: number;
}

interface Spectral {
  readonly u: Tensor;
  readonly v: Tensor;
  readonly eps: number;
}

/** The float type in which a layer computes with an input: its own, f32 for indices. */
export function floatTypeOf({ dtype }: { readonly dtype: DType }): FloatType {
  return dtype === 'f16' ? 'f16' : 'f32';
}

/** A layer with a weight and perhaps a bias: linear, convolution, transposed convolution, embedding. */
export abstract class WeightedLayer extends Layer {
  readonly #weight: Tensor;
  /** Axis of the weight that counts the outputs: the rows of its spectral matrix. */
  readonly #outputAxis: number;
  readonly bias: Tensor | undefined;
  #spectral: Spectral | undefined;
  #normalized: Tensor | undefined;

  constructor(
    tape: Tape,
    shapes: { weight: Shape; bias?: Shape; outputAxis?: number },
    options: WeightOptions,
  ) {
    super(tape);
    const { rng, init, bias = true } = options;
    const parameter = (name: string, shape: Shape, make: Init) =>
      this.parameter(
        name,
        tensor(tape, make(shape, rng), shape, { label: name, requiresGrad: true }),
      );
    this.#outputAxis = shapes.outputAxis ?? 0;
    this.#weight = parameter('weight', shapes.weight, init ?? kaimingUniform);
    if (bias && shapes.bias !== undefined) {
      const zero: Init = (shape) => new Float32Array(shape[0] ?? 0);
      this.bias = parameter('bias', shapes.bias, init ? zero : biasLike(shapes.weight));
    }
  }

  /** The parameter itself, before any normalisation. */
  get weightParameter(): Tensor {
    return this.#weight;
  }

  /** u and v of the power iteration, if the layer is spectrally normalised. */
  get spectral(): Readonly<Spectral> | undefined {
    return this.#spectral;
  }

  /**
   * The weight that this forward pass multiplies by, in the float type of what it multiplies: a copy in f16 for an input of
   * f16, while the parameter stays f32. In training mode a spectral norm moves u and v here.
   */
  protected weight(input: { readonly dtype: DType }): Tensor {
    const dtype = floatTypeOf(input);
    const spectral = this.spectralLayer();
    if (spectral === undefined) return to(this.#weight, dtype);
    const { weight, ...rest } = spectral;
    const normal =
      this.#normalized ?? spectralNormalize(weight, { ...rest, update: this.training, dtype });
    return to(normal, dtype);
  }

  /** The weight with what its spectral norm needs, if it has one. */
  spectralLayer(): (SpectralLayer & { readonly eps: number }) | undefined {
    if (this.#spectral === undefined) return undefined;
    return { weight: this.#weight, axis: this.#outputAxis, ...this.#spectral };
  }

  /** What `weight()` is until it is told otherwise: a weight that was normalised together with others. */
  useNormalized(weight: Tensor | undefined): void {
    this.#normalized = weight;
  }

  /** Divides the weight by its largest singular value from now on. Use `spectralNorm(layer)`. */
  normalizeSpectrum({ rng, eps = 1e-12, warmUp = 15 }: SpectralNormOptions): void {
    if (this.#spectral !== undefined) throw new Error('the layer is spectrally normalised already');
    const { outer, rows, inner } = spectralSizes(this.#weight.shape, this.#outputAxis);
    const unit = (name: string, length: number) => {
      const values = Float32Array.from({ length }, () => rng.normal());
      const norm = Math.max(Math.sqrt(values.reduce((s, x) => s + x * x, 0)), eps);
      return this.buffer(
        name,
        tensor(
          this.tape,
          values.map((x) => x / norm),
          [length],
          { label: name },
        ),
      );
    };
    this.rename('weight', 'weight_orig');
    const spectral = { u: unit('weight_u', rows), v: unit('weight_v', outer * inner), eps };
    this.#spectral = spectral;
    this.tape.noGrad(() => {
      for (let i = 0; i < warmUp; i++) {
        this.tape.gpu.scope(() => {
          spectralNormalize(this.#weight, { ...spectral, axis: this.#outputAxis, update: true });
        });
      }
    });
  }
}

/**
 * Wraps a layer as torch.nn.utils.spectral_norm does: one power iteration a forward pass in training mode, none in
 * evaluation; keys weight_orig, weight_u, weight_v.
 */
export function spectralNorm<L extends WeightedLayer>(layer: L, options: SpectralNormOptions): L {
  layer.normalizeSpectrum(options);
  return layer;
}
