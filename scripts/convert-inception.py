"""Turns PyTorch's Inception weights of the Fréchet Inception Distance into the safetensors file that wgsagan reads.

    python3 scripts/convert-inception.py pt_inception-2015-12-05-6726825d.pth pt_inception.safetensors

The .pth file is that of the project mseitzer/pytorch-fid (its release page, `fid_weights`). Needs torch and numpy alone. Counters of
batch norm and an auxiliary output, which the distance has no use for, are left out; weights become float32.
"""
import json
import os
import struct
import sys

import numpy as np
import torch

UNUSED = ('num_batches_tracked',)


def main(source, target):
    if os.path.exists(target):
        sys.exit(f'{target} is there already; remove it, or choose another name')
    state = torch.load(source, map_location='cpu')
    state = state.get('state_dict', state) if isinstance(state, dict) else state.state_dict()
    kept = {
        name: np.ascontiguousarray(value.detach().numpy(), dtype='<f4')
        for name, value in state.items()
        if not name.endswith(UNUSED) and not name.startswith('AuxLogits.')
    }
    outputs = kept['fc.weight'].shape[0] if 'fc.weight' in kept else None
    if outputs != 1008:
        sys.exit(f'{source} has {outputs} outputs, and the net of FID has 1008: these are other weights')
    header, offset = {}, 0
    for name, value in kept.items():
        header[name] = {'dtype': 'F32', 'shape': list(value.shape), 'data_offsets': [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    part = f'{target}.part'
    with open(part, 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        for value in kept.values():
            file.write(value.tobytes())
    os.rename(part, target)
    print(f'{target}: {len(kept)} tensors, {offset / 2 ** 20:.0f} MiB')


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit('usage: convert-inception.py FILE.pth OUT.safetensors')
    main(*sys.argv[1:])
