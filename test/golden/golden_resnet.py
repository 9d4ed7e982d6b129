"""One step of the authors' SAGAN of residual blocks, in small. Layout: make_golden.py."""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from golden_io import Family, round_state
from golden_models import PaperAttention


def conv(c_in, c_out, size):
    return spectral_norm(nn.Conv2d(c_in, c_out, size, padding=size // 2))


class ConditionalBatchNorm(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.bn = nn.BatchNorm2d(features, affine=False)
        self.gain, self.bias = nn.Embedding(classes, features), nn.Embedding(classes, features)

    def forward(self, x, y):
        gain, bias = (table(y)[:, :, None, None] for table in (self.gain, self.bias))
        return self.bn(x) * gain + bias


class UpBlock(nn.Module):
    """The shortcut enlarges first and convolves then, as the released code does."""

    def __init__(self, c_in, c_out, classes):
        super().__init__()
        self.classes = classes
        self.bn1, self.bn2 = (ConditionalBatchNorm(c, classes) if classes else nn.BatchNorm2d(c) for c in (c_in, c_out))
        self.conv1, self.conv2, self.conv_sc = conv(c_in, c_out, 3), conv(c_out, c_out, 3), conv(c_in, c_out, 1)

    def forward(self, x, y):
        labels = (y,) if self.classes else ()
        h = self.conv1(F.interpolate(F.relu(self.bn1(x, *labels)), scale_factor=2, mode='nearest'))
        h = self.conv2(F.relu(self.bn2(h, *labels)))
        return h + self.conv_sc(F.interpolate(x, scale_factor=2, mode='nearest'))


class DownBlock(nn.Module):
    """The shortcut convolves first and pools then, but for the first block, as the released code does."""

    def __init__(self, c_in, c_out, down, first):
        super().__init__()
        self.down, self.first = down, first
        self.conv1, self.conv2 = conv(c_in, c_out, 3), conv(c_out, c_out, 3)
        self.conv_sc = conv(c_in, c_out, 1) if down or c_in != c_out else None

    def forward(self, x, _):
        pool = (lambda t: F.avg_pool2d(t, 2)) if self.down else (lambda t: t)
        h = pool(self.conv2(F.relu(self.conv1(x if self.first else F.relu(x)))))
        if self.first:
            return h + self.conv_sc(pool(x))
        return h + (x if self.conv_sc is None else pool(self.conv_sc(x)))


class ClassAttention(nn.Module):
    """Query and key of x + e(class), value of x; spectral norm on the convolutions."""

    def __init__(self, C, classes):
        super().__init__()
        self.query_conv, self.key_conv, self.value_conv = conv(C, max(1, C // 8), 1), conv(C, max(1, C // 8), 1), conv(C, C, 1)
        self.gamma, self.embed = nn.Parameter(torch.tensor([0.5])), nn.Embedding(classes, C)

    def forward(self, x, y):
        told = x + self.embed(y)[:, :, None, None]
        q, k, v = (layer(t).flatten(2) for layer, t in
                   ((self.query_conv, told), (self.key_conv, told), (self.value_conv, x)))
        o = v @ torch.softmax(q.transpose(1, 2) @ k, -1).transpose(1, 2)
        return self.gamma * o.view_as(x) + x


class Generator(nn.Module):
    """`chain`: channels at 4×4, 8×8, …; attention behind the block `attention`."""

    def __init__(self, latent, chain, attention, classes, kind):
        super().__init__()
        self.linear = spectral_norm(nn.Linear(latent, 16 * chain[0]))
        self.blocks = nn.ModuleList(
            nn.ModuleList([UpBlock(a, b, classes)] + ([attention_of_kind(kind, b, classes)] if i == attention else []))
            for i, (a, b) in enumerate(zip(chain, chain[1:])))
        self.output_layer = nn.Sequential(nn.BatchNorm2d(chain[-1]), nn.ReLU(), conv(chain[-1], 3, 3))

    def forward(self, z, y):
        h = self.linear(z).view(len(z), -1, 4, 4)
        for layers in self.blocks:
            for layer in layers:
                h = layer(h, y)
        return torch.tanh(self.output_layer(h))


class Discriminator(nn.Module):
    """`chain`: channels of the blocks' results, of which the first `down` halve the image."""

    def __init__(self, chain, down, attention, classes, kind):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList([DownBlock(a, b, i < down, i == 0)] + ([attention_of_kind(kind, b, classes)] if i == attention else []))
            for i, (a, b) in enumerate(zip([3] + chain, chain)))
        self.linear = spectral_norm(nn.Linear(chain[-1], 1))
        self.embed = spectral_norm(nn.Embedding(classes, chain[-1])) if classes else None

    def forward(self, x, y):
        for layers in self.blocks:
            for layer in layers:
                x = layer(x, y)
        h = F.relu(x).sum((2, 3))
        score = self.linear(h)[:, 0]
        return score + (self.embed(y) * h).sum(1) if self.embed is not None else score


class PaperSmall(PaperAttention):
    """PaperAttention under spectral norm, of fewer than 8 channels too."""

    def __init__(self, C):
        nn.Module.__init__(self)
        narrow, half = max(1, C // 8), max(1, C // 2)
        one = lambda a, b: spectral_norm(nn.Conv2d(a, b, 1, bias=False))
        self.theta, self.phi, self.g, self.o = one(C, narrow), one(C, narrow), one(C, half), one(half, C)
        self.gamma = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x, _):
        B, C, H, W = x.shape
        q = self.theta(x).flatten(2)
        k, v = (F.max_pool2d(conv(x), 2).flatten(2) for conv in (self.phi, self.g))
        o = v @ torch.softmax(q.transpose(1, 2) @ k, -1).transpose(1, 2)
        return self.gamma * self.o(o.view(B, -1, H, W)) + x


def attention_of_kind(kind, C, classes):
    return ClassAttention(C, classes) if kind == 'class' else PaperSmall(C)


def one_step(G, D, real, labels, z, classes):
    """Gradients of D, and of G after them, without a move: every forward in training mode, D three times, G twice."""
    fake = G(z[0], classes[0])
    d_real, d_fake = D(real, labels), D(fake.detach(), classes[0])
    d_loss = F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()
    d_grads = torch.autograd.grad(d_loss, list(D.parameters()))
    g_loss = -D(G(z[1], classes[1]), classes[1]).mean()
    g_grads = torch.autograd.grad(g_loss, list(G.parameters()))
    out = dict(fake=fake, d_real=d_real, d_fake=d_fake, d_loss=d_loss, g_loss=g_loss)
    for prefix, net, grads in (('d', D, d_grads), ('g', G, g_grads)):
        out.update({f'{prefix}.grad.{n}': g for (n, _), g in zip(net.named_parameters(), grads)})
        out.update({f'{prefix}.after.{n}': b for n, b in net.named_buffers() if b.is_floating_point()})
    return out


def resnet_step():
    fam = Family('resnet_step', 19)
    cases = {
        'told': (dict(imageSize=16, width=2, latentSize=3, classes=2, at=8, attention='class'), [4, 4, 4], 0, [2, 2, 2], 1, 0),
        'small': (dict(imageSize=16, width=4, latentSize=5, classes=3, at=8, attention='paper'), [8, 8, 8], 0, [4, 4, 4], 1, 0),
        'large': (dict(imageSize=64, width=1, latentSize=5, classes=0, at=16, attention='paper'),
                  [16, 8, 4, 2, 1], 1, [1, 2, 4, 8, 16], 4, 1),
    }
    batch = 2
    for name, (params, g_chain, g_at, d_chain, down, d_at) in cases.items():
        size, latent, classes = params['imageSize'], params['latentSize'], params['classes']
        kind = params['attention']
        G = Generator(latent, g_chain, g_at, classes, kind)
        D = Discriminator(d_chain, down, d_at, classes, kind)
        with torch.no_grad():
            for net in (G, D):
                for key, p in net.named_parameters():
                    if 'bias' in key:
                        p.copy_(fam.normal(*p.shape, scale=0.2))
                    elif 'gain' in key or p.ndim == 1 and 'gamma' not in key:
                        p.copy_(fam.uniform(0.6, 1.4, *p.shape))
                round_state(net)
        real = torch.tanh(fam.normal(batch, 3, size, size)).float().double()
        z = fam.normal(2, batch, latent)
        labels, *made = (torch.from_numpy(fam.rng.randint(0, max(1, classes), batch)) for _ in range(3))
        out = dict(real=real, z=z, labels=labels.int(), made=torch.stack(made).int())
        for prefix, net in (('d', D), ('g', G)):
            out.update({f'{prefix}.start.{k}': v.clone() for k, v in net.state_dict().items() if v.is_floating_point()})
        single = [copy.deepcopy(net).float() for net in (G, D)]
        out.update(one_step(G, D, real, labels, z, made))
        rounded = one_step(*single, real.float(), labels, z.float(), made)
        out.update({f'error.{key}': (value.double() - out[key]).abs().max() for key, value in rounded.items()})
        fam.case(name, params, out)
    return fam.save()
