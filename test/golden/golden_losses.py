"""Golden cases of adversarial losses and of penalties on the discriminator's slope. Layouts: make_golden.py."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from golden_io import Family, f32, leaf, round_state
from golden_models import SelfAttention


def cross_entropy(scores, label):
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))


def squares(scores, label):
    return 0.5 * F.mse_loss(scores, torch.full_like(scores, label))


LOSSES = {
    'hinge': (lambda real, fake, s: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), lambda fake: -fake.mean()),
    'bce': (lambda real, fake, s: cross_entropy(real, 1 - s) + cross_entropy(fake, 0.0),
            lambda fake: cross_entropy(fake, 1.0)),
    'bce-minimax': (lambda real, fake, s: cross_entropy(real, 1 - s) + cross_entropy(fake, 0.0),
                    lambda fake: F.logsigmoid(-fake).mean()),
    'lsgan': (lambda real, fake, s: squares(real, 1.0) + squares(fake, 0.0), lambda fake: squares(fake, 1.0)),
    'wasserstein': (lambda real, fake, s: fake.mean() - real.mean(), lambda fake: -fake.mean()),
}


def losses():
    """Scores of an untrained discriminator, of a sure one (±50) and of one that has run away (±1000)."""
    fam = Family('losses', 19)
    far = torch.tensor([50.0, -50.0, 1000.0, -1000.0])
    near_real, near_fake = fam.normal(7, scale=2), fam.normal(4, scale=2)
    for name, (of_d, of_g) in LOSSES.items():
        for smoothing in (0.0, 0.125) if name.startswith('bce') else (0.0,):
            real, fake = leaf(torch.cat([near_real, far])), leaf(torch.cat([near_fake, far]))
            d = of_d(real, fake, smoothing)
            d_real, d_fake = torch.autograd.grad(d, [real, fake])
            g = of_g(fake)
            g_fake, = torch.autograd.grad(g, [fake])
            fam.case(name if smoothing == 0 else f'{name}_smoothed', dict(loss=name, smoothing=smoothing),
                     dict(real=real, fake=fake, d=d, dReal=d_real, dFake=d_fake, g=g, gFake=g_fake))
    return fam.save()


class Discriminator(nn.Module):
    """Preset sagan-32-tiny at 8×8 and width 8: 3@8×8 → 8@4×4 → attention → 1, spectral norm everywhere."""

    def __init__(self):
        super().__init__()
        attention = SelfAttention(8)
        for conv in (attention.query_conv, attention.key_conv, attention.value_conv):
            spectral_norm(conv)
        self.main = nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 4, 2, 1)), nn.LeakyReLU(0.1), attention,
                                  spectral_norm(nn.Conv2d(8, 1, 4)))

    def forward(self, x):
        return self.main(x).flatten()


def penalties():
    """gp: mean((‖∇D(x̂)‖ − 1)²) at x̂ = α·real + (1 − α)·fake;  r1: ½·mean(‖∇D(real)‖²).  One training forward each."""
    fam = Family('penalties', 20)
    B = 3
    real, fake = (torch.tanh(fam.normal(B, 3, 8, 8)) for _ in range(2))
    real, fake, alpha = f32(real), f32(fake), fam.uniform(0, 1, B, 1, 1, 1)
    D = Discriminator()
    D.main[2].gamma.data.fill_(0.75)
    for conv in (D.main[2].query_conv, D.main[2].key_conv):
        conv.weight_orig.data.mul_(8)
    state = {key: value.clone() for key, value in round_state(D).state_dict().items()}

    def slopes(images):
        D.load_state_dict(state)
        x = leaf(images)
        # A leaky relu near its kink would have another slope in float32.
        assert D.main[0](x).abs().min() > 1e-4
        D.load_state_dict(state)
        slope, = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        return slope.flatten(1)

    def case(name, images, penalty_of, **inputs):
        penalty = penalty_of(slopes(images))
        names, parameters = zip(*D.named_parameters())
        found = torch.autograd.grad(penalty, parameters, allow_unused=True)
        grads = {f'grad.{n}': torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found)}
        fam.case(name, dict(B=B), dict(**inputs, **state, penalty=penalty, **grads))

    case('gp', alpha * real + (1 - alpha) * fake, lambda g: ((g.norm(dim=1) - 1) ** 2).mean(), real=real, fake=fake, alpha=alpha)
    case('r1', real, lambda g: 0.5 * (g ** 2).sum(1).mean(), real=real, fake=fake)
    return fam.save()
