"""The loss of a small VAE with attention, told classes or not, and its gradients. Layout: make_golden.py."""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from golden_io import Family, round_state

SLOPE = 0.2


class Attention(nn.Module):
    """Plain; with classes, query and key are those of x + e(class)."""

    def __init__(self, C, classes):
        super().__init__()
        narrow = max(1, C // 8)
        self.query_conv, self.key_conv, self.value_conv = nn.Conv2d(C, narrow, 1), nn.Conv2d(C, narrow, 1), nn.Conv2d(C, C, 1)
        self.gamma = nn.Parameter(torch.tensor([0.5]))
        if classes:
            self.embed = nn.Embedding(classes, C)

    def forward(self, x, y):
        told = x if y is None else x + self.embed(y)[:, :, None, None]
        q, k, v = self.query_conv(told).flatten(2), self.key_conv(told).flatten(2), self.value_conv(x).flatten(2)
        o = v @ torch.softmax(q.transpose(1, 2) @ k, -1).transpose(1, 2)
        return self.gamma * o.view_as(x) + x


class Encoder(nn.Module):
    """16×16 → 8×8 with attention → 4×4 → means and logarithms of variances. A class is a plane more."""

    def __init__(self, channels, width, latent, classes):
        super().__init__()
        if classes:
            self.embed = nn.Embedding(classes, 16 * 16)
        first = nn.ModuleDict(dict(conv=nn.Conv2d(channels + (classes > 0), width, 4, 2, 1), attention=Attention(width, classes)))
        self.blocks = nn.ModuleList([first, nn.ModuleDict(dict(conv=nn.Conv2d(width, 2 * width, 4, 2, 1)))])
        self.moments = nn.Linear(16 * 2 * width, 2 * latent)

    def forward(self, x, y):
        h = x if y is None else torch.cat([x, self.embed(y).view(-1, 1, 16, 16)], 1)
        h = self.blocks[0]['attention'](F.leaky_relu(self.blocks[0]['conv'](h), SLOPE), y)
        h = F.leaky_relu(self.blocks[1]['conv'](h), SLOPE)
        return self.moments(h.flatten(1)).chunk(2, 1)


class Decoder(nn.Module):
    """z → 4×4 → 8×8 with attention → 16×16, before the tanh. A class is a vector as long as z."""

    def __init__(self, channels, width, latent, classes):
        super().__init__()
        if classes:
            self.embed = nn.Embedding(classes, latent)
        self.project = nn.Linear(latent * (2 if classes else 1), 16 * 2 * width)
        second = nn.ModuleDict(dict(conv=nn.ConvTranspose2d(width, channels, 4, 2, 1), attention=Attention(width, classes)))
        self.blocks = nn.ModuleList([nn.ModuleDict(dict(conv=nn.ConvTranspose2d(2 * width, width, 4, 2, 1))), second])

    def forward(self, z, y):
        h = self.project(z if y is None else torch.cat([z, self.embed(y)], 1)).view(len(z), -1, 4, 4)
        h = self.blocks[0]['conv'](F.leaky_relu(h, SLOPE))
        h = self.blocks[1]['attention'](F.leaky_relu(h, SLOPE), y)
        return self.blocks[1]['conv'](h)


def step(E, D, x, y, noise, loss_name, weight):
    """Values and gradients of one pass, without a move."""
    mean, log_var = E(x, y)
    std = (log_var / 2).exp()
    z = mean + std * noise
    logits = D(z, y)
    images = torch.tanh(logits)
    if loss_name == 'bce':
        pixels = F.binary_cross_entropy_with_logits(2 * logits, (x + 1) / 2, reduction='sum')
    else:
        pixels = F.mse_loss(images, x, reduction='sum')
    reconstruction = pixels / len(x)
    kl = kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), torch.ones_like(std))).sum() / len(x)
    loss = reconstruction + weight * kl
    out = dict(z=z, moments=torch.cat([mean, log_var], 1), images=images, loss=loss, reconstruction=reconstruction, kl=kl)
    for name, net in (('encoder', E), ('generator', D)):
        grads = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
        out.update({f'{name}.grad.{key}': g for (key, _), g in zip(net.named_parameters(), grads)})
    return out


def vae():
    fam = Family('vae', 25)
    batch, size, width = 3, 16, 4
    cases = {
        'plain': dict(channels=3, latentSize=5, attention='plain', classes=0, reconstruction='mse', klWeight=1),
        'told': dict(channels=1, latentSize=3, attention='class', classes=3, reconstruction='bce', klWeight=0.25),
    }
    for name, params in cases.items():
        channels, latent, classes = params['channels'], params['latentSize'], params['classes']
        E, D = Encoder(channels, width, latent, classes), Decoder(channels, width, latent, classes)
        for net in (E, D):
            round_state(net)
        x = torch.tanh(fam.normal(batch, channels, size, size)).float().double()
        y = torch.from_numpy(fam.rng.randint(0, classes, batch)) if classes else None
        noise = fam.normal(batch, latent)
        out = dict(x=x, labels=None if y is None else y.int(), noise=noise)
        for prefix, net in (('encoder', E), ('generator', D)):
            out.update({f'{prefix}.start.{k}': v.clone() for k, v in net.state_dict().items()})
        single = [copy.deepcopy(net).float() for net in (E, D)]
        rest = params['reconstruction'], params['klWeight']
        out.update(step(E, D, x, y, noise, *rest))
        rounded = step(*single, x.float(), y, noise.float(), *rest)
        out.update({f'error.{key}': (value.double() - out[key]).abs().max() for key, value in rounded.items()})
        fam.case(name, dict(imageSize=size, width=width, slope=SLOPE, **params), out)
    return fam.save()
