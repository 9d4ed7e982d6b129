import { at } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { planSpectra, spectralNormalizeAll } from '../ops/spectral.ts';
import type { SpectralPlan } from '../ops/spectral.ts';
import type { Module } from './module.ts';
import { WeightedLayer, floatTypeOf } from './weighted.ts';

/**
 * All spectral norms of a net, taken at the beginning of its forward pass in the launches of one. For the end of a model's
 * constructor: it lays the net's parameters side by side in one buffer, where an optimiser can move all of them in one
 * launch too, and the u's and v's of the power iterations in two more. Names, shapes and values stay; nothing may have
 * captured the old places.
 */
export class Spectra {
  readonly #net: Module;
  readonly #layers: readonly WeightedLayer[];
  readonly #plan: SpectralPlan | undefined;

  constructor(net: Module) {
    const { gpu } = net.tape;
    const join = (tensors: readonly Tensor[], label: string) => {
      gpu.join(
        tensors.map((t) => t.storage),
        label,
      );
    };
    this.#net = net;
    this.#layers = [...net.namedModules()].flatMap(([, layer]) =>
      layer instanceof WeightedLayer && layer.spectral !== undefined ? [layer] : [],
    );
    const spectra = this.#spectra();
    join(net.parameters(), 'parameters');
    join(
      spectra.map(({ u }) => u),
      'left singular vectors',
    );
    join(
      spectra.map(({ v }) => v),
      'right singular vectors',
    );
    this.#plan = planSpectra(spectra);
  }

  /**
   * Runs the forward pass of an input, in which every layer's weight has been normalised beforehand, in training mode after a
   * move, and is in the input's float type.
   */
  during<T>(input: Tensor, forward: () => T): T {
    const spectra = this.#spectra();
    const [first] = spectra;
    // Layers of different eps or mode are left to themselves.
    const alike =
      first !== undefined &&
      spectra.every(({ eps }) => eps === first.eps) &&
      this.#layers.every(({ training }) => training === this.#net.training);
    if (!alike) return forward();
    const dtype = floatTypeOf(input);
    const options = { update: this.#net.training, eps: first.eps, plan: this.#plan, dtype };
    const weights = spectralNormalizeAll(spectra, options);
    try {
      this.#layers.forEach((layer, i) => {
        layer.useNormalized(at(weights, i));
      });
      return forward();
    } finally {
      for (const layer of this.#layers) layer.useNormalized(undefined);
    }
  }

  #spectra() {
    return this.#layers.flatMap((layer) => layer.spectralLayer() ?? []);
  }
}
