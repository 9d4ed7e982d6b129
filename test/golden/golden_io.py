"""What the golden families share: the safetensors writer, float32 inputs, gradients to first and second order."""
import json
import struct
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

DTYPES = {np.dtype('<i8'): 'I64', np.dtype('<i4'): 'I32', np.dtype('<f4'): 'F32'}


def to_numpy(value):
    a = value.detach().cpu().numpy() if torch.is_tensor(value) else np.asarray(value)
    a = a.astype('<f4') if a.dtype.kind == 'f' else a
    return np.ascontiguousarray(a).reshape(a.shape)  # ascontiguousarray makes a scalar [1]


def save(name, tensors, metadata):
    """safetensors by hand: u64 header length, JSON header padded to 8 bytes, the tensors end to end, wide ones first."""
    arrays = {key: to_numpy(value) for key, value in tensors.items()}
    header = {'__metadata__': metadata} if metadata else {}
    offset = 0
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    for key, a in ordered:
        header[key] = {
            'dtype': DTYPES[a.dtype], 'shape': list(np.shape(a)), 'data_offsets': [offset, offset + a.nbytes],
        }
        offset += a.nbytes
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    blob = struct.pack('<Q', len(text)) + text + b''.join(a.tobytes() for _, a in ordered)
    (HERE / f'{name}.safetensors').write_bytes(blob)
    print(f'{name:22} {len(blob):8d} bytes  {len(arrays):4d} tensors')
    return len(blob)


class Family:
    """Collects the cases of one file."""

    def __init__(self, name, seed):
        self.name, self.tensors, self.metadata = name, {}, {}
        self.rng = np.random.RandomState(seed)
        torch.manual_seed(seed)

    def normal(self, *shape, scale=1.0, mean=0.0):
        return f32(torch.from_numpy(np.asarray(self.rng.standard_normal(shape) * scale + mean)))

    def uniform(self, low, high, *shape):
        return f32(torch.from_numpy(np.asarray(self.rng.uniform(low, high, shape))))

    def case(self, case, params, tensors):
        assert case not in self.metadata, case
        self.metadata[case] = json.dumps(params, separators=(',', ':'))
        for key, value in tensors.items():
            if value is not None:
                self.tensors[f'{case}/{key}'] = value

    def save(self):
        return save(self.name, self.tensors, self.metadata)


def f32(t):
    """The nearest float32 values, held in float64."""
    return t.float().double()


def leaf(t):
    return None if t is None else t.detach().clone().requires_grad_(True)


def grads(y, dy, inputs):
    return torch.autograd.grad((y * dy).sum(), [t for t in inputs if t is not None], allow_unused=False)


def round_state(module):
    """Parameters and buffers to float32 values."""
    with torch.no_grad():
        for t in list(module.parameters()) + list(module.buffers()):
            if t.is_floating_point():
                t.copy_(f32(t))
    return module


def attention_of(q, k, v, scale, channel_major):
    """Composition of plain ops: the meaning of the fused kernels."""
    if channel_major:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    scores = scale * (q @ k.transpose(1, 2))
    o = torch.softmax(scores, -1) @ v
    return (o.transpose(1, 2) if channel_major else o), torch.logsumexp(scores, -1)


def second_order(y, dy, named):
    """grad.T of sum(y·dy), and second.T of Σ_I sum(grad.I²), for the tensors in `named`; second also for dy."""
    names, tensors = list(named), list(named.values())
    first = torch.autograd.grad((y * dy).sum(), tensors, create_graph=True)
    energy = sum((g ** 2).sum() for g in first)
    second = torch.autograd.grad(energy, tensors + [dy], allow_unused=True)
    out = {f'grad.{n}': g for n, g in zip(names, first)}
    for n, t, s in zip(names + ['dy'], tensors + [dy], second):
        out[f'second.{n}'] = torch.zeros_like(t) if s is None else s
    return out
