"""Golden cases of DiffAugment on given random numbers. Layout: make_golden.py."""
import torch
import torch.nn.functional as F

from golden_io import Family, leaf

POLICIES = {'color': ['color'], 'translation': ['translation'], 'cutout': ['cutout'],
            'all': ['color', 'translation', 'cutout']}


def colored(x, u):
    b, s, c = (v.view(-1, *[1] * (x.dim() - 1)) for v in (u[:, 0] - 0.5, 2 * u[:, 1], u[:, 2] + 0.5))
    x = x + b
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * s
    level = x.mean(list(range(1, x.dim())), keepdim=True)
    return level + (x - level) * c


def shifted(image, row):
    """Pads by the reach on every side and cuts the image out again, off the middle."""
    h, w = image.shape[-2:]
    ry, rx = int(h / 8 + 0.5), int(w / 8 + 0.5)
    ty, tx = int(row[3] * (2 * ry + 1)) - ry, int(row[4] * (2 * rx + 1)) - rx
    padded = F.pad(image, (rx, rx, ry, ry))
    return padded[..., ry - ty:ry - ty + h, rx - tx:rx - tx + w]


def cut(image, row):
    h, w = image.shape[-2:]
    mask = torch.ones(h, w)
    sides = int(h / 2 + 0.5), int(w / 2 + 0.5)
    spans = []
    for value, size, side in zip((row[5], row[6]), (h, w), sides):
        first = int(value * (size + 1 - side % 2)) - side // 2
        spans.append(slice(max(first, 0), max(first + side, 0)))
    mask[spans[0], spans[1]] = 0
    return image * mask


def augmented(x, u, policy):
    if 'color' in policy:
        x = colored(x, u)
    if 'translation' in policy:
        x = torch.stack([shifted(image, row) for image, row in zip(x, u)])
    if 'cutout' in policy:
        x = torch.stack([cut(image, row) for image, row in zip(x, u)])
    return x


def diff_augment():
    fam = Family('diff_augment', 41)
    for shape in ((5, 3, 8, 8), (4, 1, 7, 9), (3, 3, 2, 8, 8)):
        for name, policy in POLICIES.items():
            x, dy = leaf(fam.uniform(-1, 1, *shape)), leaf(fam.normal(*shape))
            u = fam.uniform(0, 1, shape[0], 8)
            y = augmented(x, u, policy)
            dx, = torch.autograd.grad((y * dy).sum(), [x], create_graph=True)
            second, = torch.autograd.grad((dx ** 2).sum(), [dy])
            fam.case(f'{name}_{"x".join(map(str, shape))}', dict(which=policy),
                     dict(x=x, u=u, y=y, dy=dy, dx=dx, **{'second.dy': second}))
    return fam.save()
