"""Attention over space and time, and one step of the GAN of clips in small, by PyTorch's own 3-D layers. Layout: make_golden.py."""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from golden_io import Family, leaf, round_state, second_order
from golden_kinds import start

SLOPE = 0.1


class SelfAttention3d(nn.Module):
    """Query and key C/8, value C; every place of every frame looks at every other: y = gamma·softmax(QᵀK)V + x."""

    def __init__(self, C, norm=lambda layer: layer):
        super().__init__()
        narrow = max(1, C // 8)
        self.query_conv, self.key_conv = norm(nn.Conv3d(C, narrow, 1)), norm(nn.Conv3d(C, narrow, 1))
        self.value_conv, self.gamma = norm(nn.Conv3d(C, C, 1)), nn.Parameter(torch.tensor([0.5]))

    def weights(self, x):
        q, k = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv))
        return torch.softmax(q.transpose(1, 2) @ k, -1)

    def forward(self, x):
        o = self.value_conv(x).flatten(2) @ self.weights(x).transpose(1, 2)
        return self.gamma * o.view_as(x) + x


class SpaceTime(nn.Module):
    def __init__(self, *args):
        super().__init__()
        self.block = SelfAttention3d(*args)

    def forward(self, x):
        return self.block(x)


def sn(layer):
    return spectral_norm(layer)


def grown(layer, C):
    return nn.Sequential(layer, nn.BatchNorm3d(C), nn.ReLU())


def judged(layer):
    return nn.Sequential(layer, nn.LeakyReLU(SLOPE))


SPACE, MIX, RESIZE = ((1, 4, 4), (1, 2, 2), (0, 1, 1)), ((3, 1, 1), 1, (1, 0, 0)), ((4, 1, 1), (2, 1, 1), (1, 0, 0))


class Generator(nn.Module):
    """4 frames of 16×16, attention at 8×8."""

    def __init__(self, latent, width):
        super().__init__()
        up = nn.ConvTranspose3d
        self.first = grown(sn(up(latent, 2 * width, (2, 4, 4))), 2 * width)
        self.main = nn.Sequential(
            grown(sn(up(2 * width, 2 * width, *RESIZE)), 2 * width), grown(sn(up(2 * width, width, *SPACE)), width),
            SpaceTime(width, sn),
            grown(sn(nn.Conv3d(width, width, *MIX)), width), nn.Sequential(up(width, 1, *SPACE), nn.Tanh()))

    def forward(self, z):
        return self.main(self.first(z[:, :, None, None, None]))


class Discriminator(nn.Module):
    def __init__(self, width):
        super().__init__()
        conv = nn.Conv3d
        self.main = nn.Sequential(
            judged(sn(conv(1, width, *SPACE))), judged(sn(conv(width, width, *MIX))), SpaceTime(width, sn),
            judged(sn(conv(width, 2 * width, *SPACE))), judged(sn(conv(2 * width, 2 * width, *RESIZE))))
        self.score = sn(conv(2 * width, 1, (2, 4, 4)))

    def forward(self, x):
        return self.score(self.main(x)).flatten()


def squeezed(values):
    """Weights of 3-D layers as ours: R×S per frame, T×1 over time, T×(R·S) for a whole clip."""
    def one(key, t):
        if 'weight' not in key or t.ndim != 5:
            return t
        T, R, S = t.shape[2:]
        return t.reshape(*t.shape[:2], *((R, S) if T == 1 else (T, R * S)))
    return {key: one(key, t) for key, t in values.items() if t.is_floating_point()}


def one_step(G, D, real, z):
    """Gradients of D, and of G after them, without a move: every forward in training mode, D three times, G twice."""
    fake = G(z[0])
    d_real, d_fake = D(real), D(fake.detach())
    d_loss = F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()
    d_grads = torch.autograd.grad(d_loss, list(D.parameters()))
    g_loss = -D(G(z[1])).mean()
    g_grads = torch.autograd.grad(g_loss, list(G.parameters()))
    out = dict(fake=fake, d_real=d_real, d_fake=d_fake, d_loss=d_loss, g_loss=g_loss)
    for prefix, net, grads in (('d', D, d_grads), ('g', G, g_grads)):
        out.update(squeezed({f'{prefix}.grad.{n}': g for (n, _), g in zip(net.named_parameters(), grads)}))
        out.update(squeezed({f'{prefix}.after.{n}': b for n, b in net.named_buffers()}))
    return out


def video_step():
    fam = Family('video_step', 27)
    batch, frames, size, latent, width = 2, 4, 16, 6, 4
    G, D = Generator(latent, width), Discriminator(width)
    with torch.no_grad():
        for net in (G, D):
            for key, p in net.named_parameters():
                if p.ndim == 1 and 'gamma' not in key:
                    p.copy_(fam.normal(*p.shape, scale=0.2, mean=float('bias' not in key)))
            round_state(net)
    real = torch.tanh(fam.normal(batch, 1, frames, size, size)).float().double()
    z = fam.normal(2, batch, latent)
    out = dict(real=real, z=z)
    for prefix, net in (('d', D), ('g', G)):
        out.update(squeezed({f'{prefix}.start.{k}': v.clone() for k, v in net.state_dict().items()}))
    single = [copy.deepcopy(net).float() for net in (G, D)]
    out.update(one_step(G, D, real, z))
    rounded = one_step(*single, real.float(), z.float())
    out.update({f'error.{key}': (value.double() - out[key]).abs().max() for key, value in rounded.items()})
    fam.case('small', dict(imageSize=size, frames=frames, width=width, latentSize=latent, channels=1, slope=SLOPE), out)
    return fam.save()


def space_time_attention():
    fam = Family('space_time_attention', 28)
    B, C, T, H, W = 2, 16, 3, 4, 2
    place = (2, 1, 1)
    block = SpaceTime(C)
    state = start(fam, block)
    x = leaf(fam.normal(B, C, T, H, W))
    y = block(x)
    dy = leaf(fam.normal(*y.shape))
    at = (place[0] * H + place[1]) * W + place[2]
    seen = block.block.weights(x)[:, at].view(B, 1, T, H, W)
    out = dict(x=x, y=y, dy=dy, map=seen, **state)
    out.update(second_order(y, dy, dict(x=x, **dict(block.named_parameters()))))
    fam.case('plain', dict(place=place), squeezed(out))
    return fam.save()


if __name__ == '__main__':
    print(f'{space_time_attention() + video_step()} bytes in all')
