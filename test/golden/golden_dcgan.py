"""One step of the DCGAN with attention of seed 000, in small and with its reshape put in. Layout: make_golden.py."""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

from golden_io import Family, round_state
from golden_models import SelfAttention

SLOPE = 0.2


class Small(SelfAttention):
    """The seed's block, of fewer than 8 channels too."""

    def __init__(self, C):
        nn.Module.__init__(self)
        narrow = max(1, C // 8)
        self.query_conv, self.key_conv = nn.Conv2d(C, narrow, 1), nn.Conv2d(C, narrow, 1)
        self.value_conv, self.gamma, self.scale = nn.Conv2d(C, C, 1), nn.Parameter(torch.tensor([0.5])), 1.0

    def forward(self, x):
        q, k, v = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        o = v @ torch.softmax(q.transpose(1, 2) @ k, -1).transpose(1, 2)
        return self.gamma * o.view_as(x) + x


class Generator(nn.Module):
    def __init__(self, latent, width):
        super().__init__()
        self.project = nn.Linear(latent, 16 * 2 * width)
        self.main = nn.Sequential(
            nn.LeakyReLU(SLOPE), nn.BatchNorm2d(2 * width), Small(2 * width),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.LeakyReLU(SLOPE), nn.BatchNorm2d(width),
            nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z):
        return self.main(self.project(z).view(len(z), -1, 4, 4))


class Discriminator(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(SLOPE), Small(width),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(SLOPE), nn.BatchNorm2d(2 * width),
            nn.Conv2d(2 * width, 1, 4))

    def forward(self, x):
        return self.main(x).flatten()


def one_step(G, D, real, z):
    """Gradients of D, and of G after them, by binary cross-entropy, without a move; every forward in training mode."""
    fake = G(z[0])
    d_real, d_fake = D(real), D(fake.detach())
    bce = F.binary_cross_entropy_with_logits
    d_loss = bce(d_real, torch.ones_like(d_real)) + bce(d_fake, torch.zeros_like(d_fake))
    d_grads = torch.autograd.grad(d_loss, list(D.parameters()))
    score = D(G(z[1]))
    g_loss = bce(score, torch.ones_like(score))
    g_grads = torch.autograd.grad(g_loss, list(G.parameters()))
    out = dict(fake=fake, d_real=d_real, d_fake=d_fake, d_loss=d_loss, g_loss=g_loss)
    for prefix, net, grads in (('d', D, d_grads), ('g', G, g_grads)):
        out.update({f'{prefix}.grad.{n}': g for (n, _), g in zip(net.named_parameters(), grads)})
        out.update({f'{prefix}.after.{n}': b for n, b in net.named_buffers() if b.is_floating_point()})
    return out


def dcgan_step():
    fam = Family('dcgan_step', 24)
    batch, size, latent, width = 3, 16, 6, 4
    G, D = Generator(latent, width), Discriminator(width)
    round_state(G)
    round_state(D)
    real = torch.tanh(fam.normal(batch, 3, size, size)).float().double()
    z = fam.normal(2, batch, latent)
    out = dict(real=real, z=z)
    for prefix, net in (('d', D), ('g', G)):
        out.update({f'{prefix}.start.{k}': v.clone() for k, v in net.state_dict().items() if v.is_floating_point()})
    single = [copy.deepcopy(net).float() for net in (G, D)]
    out.update(one_step(G, D, real, z))
    rounded = one_step(*single, real.float(), z.float())
    out.update({f'error.{key}': (value.double() - out[key]).abs().max() for key, value in rounded.items()})
    fam.case('small', dict(imageSize=size, width=width, latentSize=latent, slope=SLOPE), out)
    return fam.save()
