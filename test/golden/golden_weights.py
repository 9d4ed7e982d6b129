"""A small SAGAN of torch.nn under the keys of ours, as people save it: the golden checkpoint, and the round trip.

    /usr/bin/python3 test/golden/golden_weights.py EXPORTED LATENTS OUT

loads EXPORTED, a generator that wgsagan wrote, into torch.nn, strictly, and runs it in evaluation mode on `z` of LATENTS. OUT
gets `images`, and besides a generator of PyTorch's own for wgsagan to read, by the names of the newer spectral norm and of
DataParallel (`module.…`), with `images.own`: what it makes of the same latents.
"""
import json
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the tree

import numpy as np
import torch
import torch.nn as nn
from torch.nn.utils import parametrizations, spectral_norm

from golden_io import f32, round_state, save
from golden_models import SelfAttention

LATENT, SIZE, WIDTH = 6, 16, 4  # attention at 4×4 in both nets


def attention(C, norm):
    block = SelfAttention(C)
    for name in ('query_conv', 'key_conv', 'value_conv'):
        setattr(block, name, norm(getattr(block, name)))
    return block


class Generator(nn.Module):
    """latent 6 → 8@4×4 → attention → 4@8×8 → 3@16×16; spectral norm on all but the last."""

    def __init__(self, norm=spectral_norm):
        super().__init__()
        self.main = nn.Sequential(
            norm(nn.ConvTranspose2d(LATENT, 2 * WIDTH, 4)), nn.BatchNorm2d(2 * WIDTH), nn.ReLU(),
            attention(2 * WIDTH, norm),
            norm(nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, 2, 1)), nn.BatchNorm2d(WIDTH), nn.ReLU(),
            nn.ConvTranspose2d(WIDTH, 3, 4, 2, 1), nn.Tanh(),
        )

    def forward(self, z):
        return self.main(z[:, :, None, None])


class Discriminator(nn.Module):
    """3@16×16 → 4@8×8 → 8@4×4 → attention → 1; spectral norm on all."""

    def __init__(self, norm=spectral_norm):
        super().__init__()
        self.main = nn.Sequential(
            norm(nn.Conv2d(3, WIDTH, 4, 2, 1)), nn.LeakyReLU(0.1),
            norm(nn.Conv2d(WIDTH, 2 * WIDTH, 4, 2, 1)), nn.LeakyReLU(0.1), attention(2 * WIDTH, norm),
            norm(nn.Conv2d(2 * WIDTH, 1, 4)),
        )

    def forward(self, x):
        return self.main(x).flatten()


def lived(net, rng, inputs):
    """A net whose every tensor has moved from where it began."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.add_(torch.from_numpy(rng.normal(0.5 if name.endswith('gamma') else 0.1, 0.1, p.shape)))
        for x in inputs:
            net(x)
    return round_state(net).eval()


def nets(seed, norm=spectral_norm):
    rng = np.random.RandomState(seed)
    torch.manual_seed(seed)
    noise = lambda *shape: f32(torch.from_numpy(rng.normal(0, 1, shape)))
    G = lived(Generator(norm), rng, [noise(8, LATENT) for _ in range(3)])
    D = lived(Discriminator(norm), rng, [noise(8, 3, SIZE, SIZE) for _ in range(3)])
    return G, D, noise(5, LATENT)


def sagan_weights():
    G, D, z = nets(19)
    out = {f'{prefix}.{key}': t for prefix, net in (('netG', G), ('netD', D)) for key, t in net.state_dict().items()}
    images = f32(G(z).detach())
    out.update(z=z, images=images, scores=D(images).detach())
    return save('sagan_weights', out, {'torch': torch.__version__})


def read(path):
    """The tensors of a safetensors file: u64 header length, JSON header, the tensors' bytes."""
    blob = Path(path).read_bytes()
    start = 8 + struct.unpack('<Q', blob[:8])[0]
    header = json.loads(blob[8:start])
    header.pop('__metadata__', None)
    types = {'F32': '<f4', 'I64': '<i8'}
    tensors = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry['data_offsets'])
        values = np.frombuffer(blob[begin:end], types[entry['dtype']])
        tensors[name] = torch.from_numpy(values.reshape(entry['shape']).copy())
    return tensors


def round_trip(exported, latents, out):
    z = read(latents)['z'].double()
    G = Generator()
    G.load_state_dict(read(exported), strict=True)
    own, _, _ = nets(20, parametrizations.spectral_norm)
    tensors = {f'module.{key}': t for key, t in own.state_dict().items()}
    with torch.no_grad():
        tensors.update({'images': G.eval()(z), 'images.own': own(z)})
    save(str(Path(out).resolve().with_suffix('')), tensors, {})


if __name__ == '__main__':
    round_trip(*sys.argv[1:])
