// The golden files: PyTorch's numbers. Layouts and the way they were made: make_golden.py.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { decodeSafetensors } from '../../src/io/safetensors.ts';

export interface GoldenTensor {
  readonly shape: readonly number[];
  /** Integer tensors (indices, counters) are small enough to be exact here. */
  readonly data: Float32Array;
}

export interface GoldenCase<Params = Record<string, unknown>> {
  readonly name: string;
  readonly params: Params;
  readonly tensors: ReadonlyMap<string, GoldenTensor>;
  /** The tensor's data; throws where the case has none of this name. */
  readonly get: (tensor: string) => Float32Array;
  readonly has: (tensor: string) => boolean;
}

function read(name: string) {
  const bytes = readFileSync(fileURLToPath(new URL(`${name}.safetensors`, import.meta.url)));
  const file = decodeSafetensors(bytes, { name: `golden file ${name}` });
  const tensors = new Map<string, GoldenTensor>();
  for (const [key, { shape, data }] of file.tensors) {
    const values = data instanceof Float32Array ? data : Float32Array.from(data, Number);
    tensors.set(key, { shape, data: values });
  }
  return { tensors, metadata: file.metadata };
}

/** Every tensor of a golden file, by its full name. */
export function loadGolden(name: string): Map<string, GoldenTensor> {
  return read(name).tensors;
}

/** The cases of a golden file. `Params` is what make_golden.py lists for the family. */
export function loadGoldenCases<Params = Record<string, unknown>>(
  name: string,
): GoldenCase<Params>[] {
  const { tensors, metadata } = read(name);
  return Object.entries(metadata).map(([caseName, json]) => {
    const own = new Map<string, GoldenTensor>();
    for (const [key, tensor] of tensors) {
      if (key.startsWith(`${caseName}/`)) own.set(key.slice(caseName.length + 1), tensor);
    }
    return {
      name: caseName,
      params: JSON.parse(json) as Params,
      tensors: own,
      has: (tensor) => own.has(tensor),
      get: (tensor) => {
        const found = own.get(tensor);
        if (!found)
          throw new Error(`golden file ${name}, case ${caseName} has no tensor ${tensor}`);
        return found.data;
      },
    };
  });
}
