"""The Inception net of the Fréchet Inception Distance in PyTorch: the layers of Szegedy et al. 2016 with the four changes of
pt_inception-2015-12-05, on weights made by a formula that the engine's tests have too, so that no file holds them."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from golden_io import Family


def words(n, salt):
    """n 32-bit words, the same in every language: a hash of their index and of a salt."""
    h = (np.arange(1, n + 1, dtype=np.uint64) * 2654435761 + salt * 2246822519) & 0xffffffff
    for multiplier in (0x45d9f3b, 0x119de1f3):
        h = ((h >> 16) ^ h) * multiplier & 0xffffffff
    return (h >> 16) ^ h


def centred(n, salt):
    """n numbers in [-0.5, 0.5), multiples of 2^-24."""
    return (words(n, salt) >> 8).astype(np.float64) * 2.0 ** -24 - 0.5


class Conv(nn.Module):
    def __init__(self, c_in, c_out, k, stride=1, pad=None):
        super().__init__()
        k = (k, k) if isinstance(k, int) else k
        same = tuple((side - 1) // 2 for side in k)
        self.conv = nn.Conv2d(c_in, c_out, k, stride=stride, padding=same if pad is None else pad, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def chain(block, names, x):
    for name in names:
        x = getattr(block, name)(x)
    return x


def inner_mean(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class A(nn.Module):
    def __init__(self, c, pool):
        super().__init__()
        self.branch1x1 = Conv(c, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(c, 48, 1), Conv(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = Conv(c, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3)
        self.branch_pool = Conv(c, pool, 1)

    def forward(self, x):
        dbl = [f'branch3x3dbl_{i}' for i in (1, 2, 3)]
        return torch.cat([self.branch1x1(x), chain(self, ['branch5x5_1', 'branch5x5_2'], x), chain(self, dbl, x),
                          self.branch_pool(inner_mean(x))], 1)


class B(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch3x3 = Conv(c, 384, 3, 2, 0)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(c, 64, 1), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2, 0)

    def forward(self, x):
        dbl = [f'branch3x3dbl_{i}' for i in (1, 2, 3)]
        return torch.cat([self.branch3x3(x), chain(self, dbl, x), F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    def __init__(self, c, w):
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(c, 192, 1)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = Conv(c, w, 1), Conv(w, w, row), Conv(w, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(c, w, 1), Conv(w, w, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(w, w, row), Conv(w, w, column)
        self.branch7x7dbl_5 = Conv(w, 192, row)
        self.branch_pool = Conv(c, 192, 1)

    def forward(self, x):
        one, two = [f'branch7x7_{i}' for i in (1, 2, 3)], [f'branch7x7dbl_{i}' for i in (1, 2, 3, 4, 5)]
        return torch.cat([self.branch1x1(x), chain(self, one, x), chain(self, two, x), self.branch_pool(inner_mean(x))], 1)


class D(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(c, 192, 1), Conv(192, 320, 3, 2, 0)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(c, 192, 1), Conv(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, (7, 1)), Conv(192, 192, 3, 2, 0)

    def forward(self, x):
        seven = [f'branch7x7x3_{i}' for i in (1, 2, 3, 4)]
        return torch.cat([chain(self, ['branch3x3_1', 'branch3x3_2'], x), chain(self, seven, x), F.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    def __init__(self, c, pool):
        super().__init__()
        self.pool = pool
        self.branch1x1 = Conv(c, 320, 1)
        self.branch3x3_1, self.branch3x3_2a, self.branch3x3_2b = Conv(c, 384, 1), Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(c, 448, 1), Conv(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))
        self.branch_pool = Conv(c, 192, 1)

    def forward(self, x):
        h, d = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        p = inner_mean(x) if self.pool == 'mean' else F.max_pool2d(x, 3, 1, 1)
        return torch.cat([self.branch1x1(x), self.branch3x3_2a(h), self.branch3x3_2b(h), self.branch3x3dbl_3a(d),
                          self.branch3x3dbl_3b(d), self.branch_pool(p)], 1)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = Conv(3, 32, 3, 2, 0), Conv(32, 32, 3, 1, 0), Conv(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80, 1), Conv(80, 192, 3, 1, 0)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = C(768, 128), C(768, 160), C(768, 160), C(768, 192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = D(768), E(1280, 'mean'), E(2048, 'max')
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x, stages):
        for name in ('Conv2d_1a_3x3', 'Conv2d_2a_3x3', 'Conv2d_2b_3x3', 'pool', 'Conv2d_3b_1x1', 'Conv2d_4a_3x3', 'pool',
                     'Mixed_5b', 'Mixed_5c', 'Mixed_5d', 'Mixed_6a', 'Mixed_6b', 'Mixed_6c', 'Mixed_6d', 'Mixed_6e',
                     'Mixed_7a', 'Mixed_7b', 'Mixed_7c'):
            x = F.max_pool2d(x, 3, 2) if name == 'pool' else getattr(self, name)(x)
            if name != 'pool':
                stages[name] = x
        features = x.mean((2, 3))
        return features, self.fc(features)


def fill(net):
    """Weights by the formula: of the tensors in the order of their names, so wide that activations keep their size."""
    state = {k: v for k, v in net.state_dict().items() if not k.endswith('num_batches_tracked')}
    for salt, name in enumerate(sorted(state)):
        t = state[name]
        values = centred(t.numel(), salt)
        if name.endswith('conv.weight'):
            values = values * np.sqrt(24 / t[0].numel())
        elif name == 'fc.weight':
            values = values * np.sqrt(12 / 2048)
        elif name.endswith(('bn.weight', 'running_var')):
            values = values * 0.5 + 1
        else:
            values = values * 0.2
        t.copy_(torch.from_numpy(values.astype(np.float32).reshape(t.shape)))


def inception():
    fam = Family('inception', 40)
    net = Inception().eval()
    with torch.no_grad():
        fill(net)
        # (salt, N, channels, H, W, side or none): below the trained size and not square; as an extractor is given an image
        for name, (salt, N, C, H, W, side) in {
            'odd': (1000, 1, 3, 107, 123, None), 'image': (1001, 1, 3, 32, 32, 299), 'grey': (1002, 1, 1, 20, 20, 299),
        }.items():
            pixels = torch.from_numpy((words(N * C * H * W, salt) >> 24).astype(np.float64).reshape(N, C, H, W))
            x = (pixels / 255).expand(N, 3, H, W)
            if side is not None:
                x = F.interpolate(x, size=(side, side), mode='bilinear', align_corners=False)
            stages = {}
            features, logits = net(2 * x - 1, stages)
            out = dict(features=features)
            if name == 'odd':
                out['logits'] = logits
                out |= {f'{stage}.mean': y[0].mean((1, 2)) for stage, y in stages.items()}
            elif name == 'image':
                # The original Inception Score takes the last layer without its bias.
                out['probabilities'] = torch.softmax(features @ net.fc.weight.T, 1)
            fam.case(name, dict(salt=salt, N=N, C=C, H=H, W=W), out)
    return fam.save()


if __name__ == '__main__':
    inception()
