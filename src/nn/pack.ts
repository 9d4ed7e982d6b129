import type { Tensor } from '../autograd/tensor.ts';
import type { Module } from './module.ts';
import { WeightedLayer } from './weighted.ts';

/**
 * Lays a net's parameters side by side in one buffer, and the u's and v's of its spectral norms in two more: an optimiser
 * then moves all of them in one launch. Names, shapes and values stay. For the end of a model's constructor: nothing may
 * have captured the old places.
 */
export function pack(net: Module): void {
  const { gpu } = net.tape;
  const storages = (tensors: readonly Tensor[]) => tensors.map((t) => t.storage);
  gpu.join(storages(net.parameters()), 'parameters');
  const spectra = [...net.namedModules()].flatMap(([, layer]) =>
    layer instanceof WeightedLayer && layer.spectral !== undefined ? [layer.spectral] : [],
  );
  gpu.join(storages(spectra.map(({ u }) => u)), 'left singular vectors');
  gpu.join(storages(spectra.map(({ v }) => v)), 'right singular vectors');
}
