import { at } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { planSpectra, spectralNormalizeAll } from '../ops/spectral.ts';
import type { SpectralPlan } from '../ops/spectral.ts';
import type { Module } from './module.ts';
import { WeightedLayer, floatTypeOf } from './weighted.ts';

/** Spectral norms as a forward pass estimated them. */
export interface LastNorms {
  /** Paths of the layers below the net. */
  readonly names: readonly string[];
  /** (n) f32, in their order. */
  readonly sigma: Tensor;
}

/**
 * All spectral norms of a net, taken at the beginning of its forward pass in the launches of one. For the end of a model's
 * constructor: it lays the net's parameters side by side in one buffer, where an optimiser can move all of them in one
 * launch too, and the u's and v's of the power iterations in two more. Names, shapes and values stay; nothing may have
 * captured the old places.
 */
export class Spectra {
  readonly #net: Module;
  readonly #layers: readonly WeightedLayer[];
  /** Names of `#layers`, in their order. */
  readonly #names: readonly string[];
  #last: LastNorms | undefined;
  /** By the places of the layers that they are of. */
  readonly #plans = new Map<string, SpectralPlan | undefined>();

  constructor(net: Module) {
    const { gpu } = net.tape;
    const join = (tensors: readonly Tensor[], label: string) => {
      gpu.join(
        tensors.map((t) => t.storage),
        label,
      );
    };
    this.#net = net;
    const named = [...net.namedModules()].flatMap(([name, layer]) =>
      layer instanceof WeightedLayer && layer.spectral !== undefined ? [{ name, layer }] : [],
    );
    this.#layers = named.map(({ layer }) => layer);
    this.#names = named.map(({ name }) => name);
    const spectra = spectraOf(this.#layers);
    join(net.parameters(), 'parameters');
    join(
      spectra.map(({ u }) => u),
      'left singular vectors',
    );
    join(
      spectra.map(({ v }) => v),
      'right singular vectors',
    );
    this.#planOf(this.#layers);
  }

  /**
   * Runs the forward pass of an input, in which every layer's weight has been normalised beforehand, in training mode after a
   * move, and is in the input's float type. `parts`: the modules that the pass goes through, where those are not all of the
   * net; the layers of others are left as they are.
   */
  during<T>(input: Tensor, forward: () => T, parts: readonly Module[] = [this.#net]): T {
    const there = new Set(parts.flatMap((part) => [...part.namedModules()].map(([, m]) => m)));
    const layers = this.#layers.filter((layer) => there.has(layer));
    const spectra = spectraOf(layers);
    const [first] = spectra;
    // Layers of different eps or mode are left to themselves.
    const alike =
      first !== undefined &&
      spectra.every(({ eps }) => eps === first.eps) &&
      layers.every(({ training }) => training === this.#net.training);
    if (!alike) return forward();
    const dtype = floatTypeOf(input);
    const options = {
      update: this.#net.training,
      eps: first.eps,
      plan: this.#planOf(layers),
      dtype,
    };
    const { weights, sigma } = spectralNormalizeAll(spectra, options);
    this.#last = { names: layers.map((layer) => this.#nameOf(layer)), sigma };
    try {
      layers.forEach((layer, i) => {
        layer.useNormalized(at(weights, i));
      });
      return forward();
    } finally {
      for (const layer of layers) layer.useNormalized(undefined);
    }
  }

  /** Of the last forward pass that took all its norms together; undefined where there was none. */
  get last(): LastNorms | undefined {
    return this.#last;
  }

  #nameOf(layer: WeightedLayer): string {
    return at(this.#names, this.#layers.indexOf(layer));
  }

  #planOf(layers: readonly WeightedLayer[]): SpectralPlan | undefined {
    const key = layers.map((layer) => this.#layers.indexOf(layer)).join();
    const known = this.#plans.get(key);
    if (known !== undefined) return known;
    const plan = planSpectra(spectraOf(layers));
    this.#plans.set(key, plan);
    return plan;
  }
}

function spectraOf(layers: readonly WeightedLayer[]) {
  return layers.flatMap((layer) => layer.spectralLayer() ?? []);
}
