// The references of layer norm and cross-entropy against PyTorch's numbers: within one rounding to float32.
import { expect, test } from 'vitest';
import { loadGoldenCases } from '../golden/load.ts';
import { crossEntropy } from '../reference/cross-entropy.ts';
import { layerNorm, layerNormBackward } from '../reference/layer-norm.ts';
import { f64, maxAbs } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { rounding } from '../support/rounding.ts';

test.each(loadGoldenCases<{ eps: number }>('layer_norm'))(
  'layer norm, $name',
  ({ params, get, tensors }) => {
    const { shape } = tensors.get('x')!;
    const cols = shape.at(-1)!;
    const rows = get('x').length / cols;
    const given = { x: get('x'), gamma: get('gamma'), beta: get('beta'), rows, cols, ...params };
    expectClose(layerNorm(given, f64).y, get('y'), rounding(get('y')), 'y');
    const { dx, dgamma, dbeta } = layerNormBackward(given, get('dy'), f64);
    for (const [name, own] of Object.entries({ x: dx, gamma: dgamma, beta: dbeta })) {
      const wanted = get(`grad.${name}`);
      expectClose(own, wanted, rounding(wanted), name);
    }
  },
);

test.each(loadGoldenCases<{ smoothing: number; ignore: number | null }>('cross_entropy'))(
  'cross-entropy, $name',
  ({ params, get }) => {
    const sizes = { rows: 6, classes: 5, smoothing: params.smoothing };
    const given = { logits: get('logits'), labels: get('labels'), ...sizes };
    const found = crossEntropy({ ...given, ignore: params.ignore ?? 99 }, f64);
    expectClose([found.mean], get('loss'), rounding(get('loss'), maxAbs(get('logits'))), 'loss');
    expectClose(found.dx, get('dlogits'), rounding(get('dlogits'), 1), 'dlogits');
    expect(found.share).toBe(params.ignore === null ? 1 / 6 : 1 / 4);
  },
);
