"""The nets of progressive growing, in small, in a fade and between two. Layout: make_golden.py."""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from golden_io import Family, round_state
from golden_resnet import conv

SLOPE = 0.2


class Attention(nn.Module):
    """The plain block under spectral norm, of fewer than 8 channels too."""

    def __init__(self, C):
        super().__init__()
        narrow = max(1, C // 8)
        self.query_conv, self.key_conv, self.value_conv = conv(C, narrow, 1), conv(C, narrow, 1), conv(C, C, 1)
        self.gamma = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x):
        q, k, v = (layer(x).flatten(2) for layer in (self.query_conv, self.key_conv, self.value_conv))
        o = v @ torch.softmax(q.transpose(1, 2) @ k, -1).transpose(1, 2)
        return self.gamma * o.view_as(x) + x


def up(x):
    return F.interpolate(x, scale_factor=2, mode='nearest')


class Generator(nn.Module):
    """`chain`: channels at 4×4, 8×8, …; attention at the size of index `at`."""

    def __init__(self, latent, chain, at):
        super().__init__()
        def normal(c):
            return [nn.BatchNorm2d(c), nn.ReLU()]
        first = spectral_norm(nn.ConvTranspose2d(latent, chain[0], 4))
        self.blocks = nn.ModuleList(
            nn.Sequential(first if i == 0 else conv(chain[i - 1], c, 3), *normal(c), conv(c, c, 3), *normal(c),
                          *([Attention(c)] if i == at else []))
            for i, c in enumerate(chain))
        self.to_image = nn.ModuleList(nn.Sequential(nn.Conv2d(c, 3, 1), nn.Tanh()) for c in chain)

    def forward(self, z, stage, alpha):
        features = [self.blocks[0](z[:, :, None, None])]
        for block in self.blocks[1:stage + 1]:
            features.append(block(up(features[-1])))
        image = self.to_image[stage](features[stage])
        if alpha == 1:
            return image
        return (1 - alpha) * up(self.to_image[stage - 1](features[stage - 1])) + alpha * image


class Discriminator(nn.Module):
    def __init__(self, chain, at):
        super().__init__()
        def block(i, c):
            last = [spectral_norm(nn.Conv2d(c, 1, 4))] if i == 0 else [conv(c, chain[i - 1], 3), nn.LeakyReLU(SLOPE)]
            attention = [Attention(c)] if i == at else []
            return nn.Sequential(*attention, conv(c, c, 3), nn.LeakyReLU(SLOPE), *last)
        self.blocks = nn.ModuleList(block(i, c) for i, c in enumerate(chain))
        self.from_image = nn.ModuleList(nn.Sequential(conv(3, c, 1), nn.LeakyReLU(SLOPE)) for c in chain)

    def forward(self, x, stage, alpha):
        h = self.from_image[stage](x)
        for i in range(stage, 0, -1):
            h = F.avg_pool2d(self.blocks[i](h), 2)
            if i == stage and alpha < 1:
                h = (1 - alpha) * self.from_image[i - 1](F.avg_pool2d(x, 2)) + alpha * h
        return self.blocks[0](h).flatten()


def shown(real, stage, alpha):
    """Real images as the nets see them."""
    x = F.avg_pool2d(real, real.shape[2] // (4 * 2 ** stage))
    return x if alpha == 1 else (1 - alpha) * up(F.avg_pool2d(x, 2)) + alpha * x


def one_step(G, D, real, z, stage, alpha):
    """Gradients of D, and of G after them, by the hinge loss, without a move. Those of a part that is absent are absent."""
    fake, seen = G(z[0], stage, alpha), shown(real, stage, alpha)
    d_real, d_fake = D(seen, stage, alpha), D(fake.detach(), stage, alpha)
    d_loss = F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()
    d_grads = torch.autograd.grad(d_loss, list(D.parameters()), allow_unused=True)
    g_loss = -D(G(z[1], stage, alpha), stage, alpha).mean()
    g_grads = torch.autograd.grad(g_loss, list(G.parameters()), allow_unused=True)
    out = dict(fake=fake, seen=seen, d_real=d_real, d_fake=d_fake, d_loss=d_loss, g_loss=g_loss)
    for prefix, net, grads in (('d', D, d_grads), ('g', G, g_grads)):
        out.update({f'{prefix}.grad.{n}': g for (n, _), g in zip(net.named_parameters(), grads) if g is not None})
        out.update({f'{prefix}.after.{n}': b for n, b in net.named_buffers() if b.is_floating_point()})
    return out


def progressive_step():
    fam = Family('progressive_step', 29)
    batch, size, latent, width, steps = 3, 16, 4, 2, 3
    chain, at = [4, 2, 2], 1
    # Three steps of 4×4, three in which 8×8 fades in, three in which it stays; then 16×16 fades in by quarters.
    for name, step, stage, alpha in (('fading', 9, 2, 0.25), ('whole', 6, 1, 1)):
        G, D = Generator(latent, chain, at), Discriminator(chain, at)
        with torch.no_grad():
            for net in (G, D):
                for key, p in net.named_parameters():
                    if 'bias' in key:
                        p.copy_(fam.normal(*p.shape, scale=0.2))
                    elif p.ndim == 1 and 'gamma' not in key:
                        p.copy_(fam.uniform(0.6, 1.4, *p.shape))
                round_state(net)
        real = torch.tanh(fam.normal(batch, 3, size, size)).float().double()
        z = fam.normal(2, batch, latent)
        out = dict(real=real, z=z)
        for prefix, net in (('d', D), ('g', G)):
            out.update({f'{prefix}.start.{k}': v.clone() for k, v in net.state_dict().items() if v.is_floating_point()})
        single = [copy.deepcopy(net).float() for net in (G, D)]
        out.update(one_step(G, D, real, z, stage, alpha))
        rounded = one_step(*single, real.float(), z.float(), stage, alpha)
        out.update({f'error.{key}': (value.double() - out[key]).abs().max() for key, value in rounded.items()})
        params = dict(imageSize=size, width=width, latentSize=latent, slope=SLOPE, at=4 * 2 ** at, stageSteps=steps, step=step)
        fam.case(name, params, out)
    return fam.save()
