"""Golden cases of optimisers, second derivatives, attention blocks and whole steps. Layouts: make_golden.py."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from golden_io import Family, attention_of, f32, leaf, round_state, save, second_order

STEPS = 10


def adam():
    fam = Family('adam', 14)

    def run(groups):
        ps = {name: nn.Parameter(fam.normal(n)) for name, n, _ in groups}
        gs = {name: fam.normal(STEPS, n, scale=scale) for (name, n, _), scale in zip(groups, (1.0, 1e-3))}
        options = {name: dict(lr=o['lr'], betas=(o['beta1'], o['beta2']), eps=o['eps'], weight_decay=o['weightDecay'])
                   for name, _, o in groups}
        optimizer = torch.optim.Adam([dict(params=[ps[name]], **options[name]) for name in ps])
        out = {name: dict(p0=p.detach().clone(), g=gs[name], p=[], m=[], v=[]) for name, p in ps.items()}
        for step in range(STEPS):
            for name, p in ps.items():
                p.grad = gs[name][step].clone()
            optimizer.step()
            for name, p in ps.items():
                out[name]['p'].append(p.detach().clone())
                out[name]['m'].append(optimizer.state[p]['exp_avg'].clone())
                out[name]['v'].append(optimizer.state[p]['exp_avg_sq'].clone())
        for name, _, o in groups:
            stacked = {key: torch.stack(value) if isinstance(value, list) else value for key, value in out[name].items()}
            fam.case(name, o, stacked)

    def options(lr, beta1, beta2, eps=1e-8, weightDecay=0.0):
        return dict(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weightDecay=weightDecay)

    run([('betas_0_09', 13, options(1e-4, 0.0, 0.9))])
    run([('betas_05_0999', 13, options(2e-4, 0.5, 0.999))])
    run([('betas_09_0999', 1, options(1e-2, 0.9, 0.999))])
    run([('weight_decay', 7, options(1e-3, 0.5, 0.9, weightDecay=0.1))])
    run([('groups_a', 5, options(1e-4, 0.0, 0.9)), ('groups_b', 3, options(4e-4, 0.5, 0.999, 1e-6, 0.01))])
    return fam.save()


def sgd():
    fam = Family('sgd', 15)
    cases = {
        'plain': dict(lr=0.1, momentum=0.0, dampening=0.0, nesterov=False, weightDecay=0.0),
        'momentum': dict(lr=0.1, momentum=0.9, dampening=0.0, nesterov=False, weightDecay=0.0),
        'nesterov': dict(lr=0.05, momentum=0.9, dampening=0.0, nesterov=True, weightDecay=0.0),
        'weight_decay': dict(lr=0.1, momentum=0.5, dampening=0.0, nesterov=False, weightDecay=0.01),
        'dampening': dict(lr=0.1, momentum=0.9, dampening=0.3, nesterov=False, weightDecay=0.0),
    }
    for name, o in cases.items():
        p, g = nn.Parameter(fam.normal(11)), fam.normal(STEPS, 11)
        optimizer = torch.optim.SGD([p], lr=o['lr'], momentum=o['momentum'], dampening=o['dampening'],
                                    nesterov=o['nesterov'], weight_decay=o['weightDecay'])
        p0, trace = p.detach().clone(), []
        for step in range(STEPS):
            p.grad = g[step].clone()
            optimizer.step()
            trace.append(p.detach().clone())
        fam.case(name, o, dict(p0=p0, g=g, p=torch.stack(trace), buffer=optimizer.state[p].get('momentum_buffer')))
    return fam.save()


def double_backward():
    fam = Family('double_backward', 16)

    def one(name, inputs, f, **params):
        inputs = {key: leaf(value) for key, value in inputs.items()}
        y = f(**inputs)
        dy = leaf(fam.normal(*y.shape))
        fam.case(name, dict(inputs=list(inputs), **params), dict(**inputs, y=y, dy=dy, **second_order(y, dy, inputs)))

    one('conv2d', dict(x=fam.normal(2, 3, 5, 4), w=fam.normal(2, 3, 3, 3), bias=fam.normal(2)),
        lambda x, w, bias: F.conv2d(x, w, bias, (2, 1), (1, 1)),
        N=2, C=3, H=5, W=4, K=2, R=3, S=3, stride=[2, 1], pad=[1, 1])
    one('conv2d_k1', dict(x=fam.normal(2, 5, 3, 2), w=fam.normal(3, 5, 1, 1)), lambda x, w: F.conv2d(x, w),
        N=2, C=5, H=3, W=2, K=3, R=1, S=1, stride=[1, 1], pad=[0, 0])
    one('conv_transpose2d', dict(x=fam.normal(2, 3, 2, 3), w=fam.normal(3, 2, 4, 4)),
        lambda x, w: F.conv_transpose2d(x, w, None, (2, 2), (1, 1)),
        N=2, Cin=3, H=2, W=3, Cout=2, R=4, S=4, stride=[2, 2], pad=[1, 1], outputPad=[0, 0])
    one('matmul', dict(a=fam.normal(2, 3, 5), b=fam.normal(2, 4, 5)), lambda a, b: a @ b.transpose(1, 2),
        M=3, K=5, N=4, batchA=[2], batchB=[2], transA=False, transB=True)
    one('softmax', dict(x=fam.normal(3, 7)), lambda x: torch.softmax(x, -1), rows=3, cols=7)
    for channel_major in (True, False):
        B, Nq, Nk, DK, DV, scale = 2, 5, 3, 2, 4, 0.5
        of = (lambda n, d: fam.normal(B, d, n)) if channel_major else (lambda n, d: fam.normal(B, n, d))
        one(f'attention_{"channel" if channel_major else "sequence"}', dict(q=of(Nq, DK), k=of(Nk, DK), v=of(Nk, DV)),
            lambda q, k, v: attention_of(q, k, v, scale, channel_major)[0],
            B=B, Nq=Nq, Nk=Nk, DK=DK, DV=DV, scale=scale, channelMajor=channel_major)
    # squared first: a leaky relu alone has no second derivative
    apart = fam.normal(4, 5)
    one('leaky_relu_squared', dict(x=f32(torch.where(apart.abs() < 0.01, torch.tensor(0.5), apart))),
        lambda x: F.leaky_relu(x, 0.2) ** 2, slope=0.2)
    for name in ('tanh', 'sigmoid', 'softplus'):
        one(name, dict(x=fam.normal(4, 5)), getattr(F if name == 'softplus' else torch, name))
    one('batch_norm', dict(x=fam.normal(3, 2, 3, 2, mean=2), gamma=fam.uniform(0.5, 1.5, 2), beta=fam.normal(2)),
        lambda x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, True, 0.1, 1e-5),
        N=3, C=2, H=3, W=2, training=True, eps=1e-5)
    one('mean_of_squares', dict(x=fam.normal(2, 3, 4)), lambda x: (x ** 2).mean((0, 2), keepdim=True),
        shape=[2, 3, 4], axes=[0, 2])
    one('square_of_mean', dict(x=fam.normal(2, 3, 4)), lambda x: x.mean((0, 2), keepdim=True) ** 2,
        shape=[2, 3, 4], axes=[0, 2])
    return fam.save()


class SelfAttention(nn.Module):
    """query, key C/8, value C; y = gamma·attention + x. `scale` is 1, or 1/√(C/8)."""

    def __init__(self, C, scale=1.0):
        super().__init__()
        self.query_conv, self.key_conv = nn.Conv2d(C, C // 8, 1), nn.Conv2d(C, C // 8, 1)
        self.value_conv, self.gamma, self.scale = nn.Conv2d(C, C, 1), nn.Parameter(torch.zeros(1)), scale

    def forward(self, x):
        q, k, v = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        self.attention = torch.softmax(self.scale * (q.transpose(1, 2) @ k), -1)
        return self.gamma * attention_of(q, k, v, self.scale, True)[0].view_as(x) + x


class PaperAttention(nn.Module):
    """The released code's block: key and value pooled 2×2, value C/2, an output convolution, no biases."""

    def __init__(self, C, norm=lambda module: module):
        super().__init__()
        self.theta, self.phi = (norm(nn.Conv2d(C, C // 8, 1, bias=False)) for _ in range(2))
        self.g, self.o = norm(nn.Conv2d(C, C // 2, 1, bias=False)), norm(nn.Conv2d(C // 2, C, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        B, C, H, W = x.shape
        q = self.theta(x).flatten(2)
        k, v = (F.max_pool2d(conv(x), 2).flatten(2) for conv in (self.phi, self.g))
        self.attention = torch.softmax(q.transpose(1, 2) @ k, -1)
        return self.gamma * self.o(attention_of(q, k, v, 1.0, True)[0].view(B, C // 2, H, W)) + x


def self_attention_blocks():
    fam = Family('self_attention_blocks', 17)
    root = float(np.float32(1 / np.sqrt(2)))
    blocks = {
        'plain': (SelfAttention(16), 1.0), 'scaled': (SelfAttention(16, root), root),
        'paper': (PaperAttention(16), 1.0), 'paper_sn': (PaperAttention(16, spectral_norm), 1.0),
    }
    for name, (block, scale) in blocks.items():
        for p in block.parameters():
            p.data = fam.normal(*p.shape, scale=0.5)
        block.gamma.data.fill_(0.75)
        round_state(block)
        state = {key: value.clone() for key, value in block.state_dict().items()}
        x = leaf(fam.normal(2, 16, 4, 4))
        y = block(x)
        dy = leaf(fam.normal(*y.shape))
        out = dict(x=x, y=y, dy=dy, attention=block.attention, **state)
        out.update(second_order(y, dy, dict(x=x, **dict(block.named_parameters()))))
        out.update({f'after.{key}': value for key, value in block.state_dict().items() if key.endswith(('_u', '_v'))})
        fam.case(name, dict(B=2, C=16, H=4, W=4, scale=scale), out)
    return fam.save()


class Generator(nn.Module):
    """latent 16 → 32@4×4 → 16@8×8 → attention → 3@16×16; spectral norm on all but the last."""

    def __init__(self):
        super().__init__()
        self.l1 = nn.Sequential(spectral_norm(nn.ConvTranspose2d(16, 32, 4)), nn.BatchNorm2d(32), nn.ReLU())
        self.l2 = nn.Sequential(spectral_norm(nn.ConvTranspose2d(32, 16, 4, 2, 1)), nn.BatchNorm2d(16), nn.ReLU())
        self.attn1 = SelfAttention(16)
        self.last = nn.Sequential(nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z):
        return self.last(self.attn1(self.l2(self.l1(z))))


class Discriminator(nn.Module):
    """3@16×16 → 16@8×8 → attention → 32@4×4 → 1; spectral norm on all but the last."""

    def __init__(self):
        super().__init__()
        self.l1 = nn.Sequential(spectral_norm(nn.Conv2d(3, 16, 4, 2, 1)), nn.LeakyReLU(0.1))
        self.attn1 = SelfAttention(16)
        self.l2 = nn.Sequential(spectral_norm(nn.Conv2d(16, 32, 4, 2, 1)), nn.LeakyReLU(0.1))
        self.last = nn.Sequential(nn.Conv2d(32, 1, 4))

    def forward(self, x):
        return self.last(self.l2(self.attn1(self.l1(x)))).flatten()


def sagan_step():
    """One step, as heykeetae/Self-Attention-GAN orders it (every forward in training mode, so u, v and the running
    statistics move at each: D three times a step, G twice):

        D:  real = D(images);  fake = D(G(z_d).detach())
            loss = mean(relu(1 − real)) + mean(relu(1 + fake));  Adam 4e-4 (0, 0.9)
        G:  loss = −mean(D(G(z_g)));  Adam 1e-4 (0, 0.9)

    gamma starts at 0.5 (D: 0.25), so that the attention carries gradient from the first step.
    """
    rng = np.random.RandomState(18)
    torch.manual_seed(18)
    G, D = Generator(), Discriminator()
    with torch.no_grad():
        G.attn1.gamma.fill_(0.5)
        D.attn1.gamma.fill_(0.25)
        D.last[0].weight.mul_(40)  # scores past ±1: both branches of the hinge
        for m in G.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.copy_(torch.from_numpy(rng.uniform(0.8, 1.2, m.weight.shape)))
                m.bias.copy_(torch.from_numpy(rng.normal(0, 0.1, m.bias.shape)))
    round_state(G), round_state(D)
    batch = 4
    real = f32(torch.from_numpy(np.tanh(rng.normal(0, 1, (STEPS, batch, 3, 16, 16)))))
    z_d, z_g = (f32(torch.from_numpy(rng.normal(0, 1, (STEPS, batch, 16, 1, 1)))) for _ in range(2))
    out = dict(real=real, z_d=z_d, z_g=z_g)

    def keep(prefix, net):
        out.update({f'{prefix}.{key}': value.clone() for key, value in net.state_dict().items()})

    keep('g.start', G), keep('d.start', D)
    opt_g = torch.optim.Adam(G.parameters(), lr=1e-4, betas=(0.0, 0.9))
    opt_d = torch.optim.Adam(D.parameters(), lr=4e-4, betas=(0.0, 0.9))
    d_losses, g_losses = [], []
    for step in range(STEPS):
        opt_d.zero_grad()
        d_real = D(real[step])
        fake = G(z_d[step])
        d_fake = D(fake.detach())
        d_loss = F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()
        d_loss.backward()
        if step == 0:
            out.update(fake=fake, d_real=d_real, d_fake=d_fake)
            out.update({f'd.grad.{n}': p.grad.clone() for n, p in D.named_parameters()})
        opt_d.step()

        opt_g.zero_grad()
        g_loss = -D(G(z_g[step])).mean()
        g_loss.backward()
        if step == 0:
            out.update({f'g.grad.{n}': p.grad.clone() for n, p in G.named_parameters()})
        opt_g.step()
        d_losses.append(d_loss.detach())
        g_losses.append(g_loss.detach())
    out.update(d_loss=torch.stack(d_losses), g_loss=torch.stack(g_losses))
    keep('g.final', G), keep('d.final', D)
    return save('sagan_step', out, {'torch': torch.__version__})
