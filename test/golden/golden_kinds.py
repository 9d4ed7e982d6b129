"""Golden cases of the attention kinds behind --attention, and of multi-head attention. Layouts: make_golden.py."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from golden_io import Family, leaf, round_state, second_order


class Kind(nn.Module):
    """query, key C/8, value C; y = gamma·mix + x."""

    def __init__(self, C, mix):
        super().__init__()
        self.query_conv, self.key_conv = nn.Conv2d(C, C // 8, 1), nn.Conv2d(C, C // 8, 1)
        self.value_conv, self.gamma, self.mix = nn.Conv2d(C, C, 1), nn.Parameter(torch.zeros(1)), mix

    def forward(self, x):
        q, k, v = (conv(x).flatten(2).transpose(1, 2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        return self.gamma * self.mix(q, k, v).transpose(1, 2).reshape(x.shape) + x


def topk(q, k, v, top=3):
    """Only the chosen scores enter the softmax: the others are minus infinity."""
    scores = q @ k.transpose(1, 2)
    chosen = scores.topk(top, -1).indices
    kept = torch.full_like(scores, -math.inf).scatter(-1, chosen, scores.gather(-1, chosen))
    return torch.softmax(kept, -1) @ v


def linear(q, k, v):
    fq, fk = F.elu(q) + 1, F.elu(k) + 1
    return (fq @ (fk.transpose(1, 2) @ v)) / (fq @ fk.sum(1, keepdim=True).transpose(1, 2))


class MultiHead(nn.Module):
    """Query, key, value and out C → C; torch.nn.functional's heads are slices of the channels too."""

    def __init__(self, C, heads):
        super().__init__()
        self.query_conv, self.key_conv, self.value_conv, self.out_conv = (nn.Conv2d(C, C, 1) for _ in range(4))
        self.gamma, self.heads = nn.Parameter(torch.zeros(1)), heads

    def forward(self, x):
        B, C, H, W = x.shape
        q, k, v = (conv(x).view(B, self.heads, C // self.heads, H * W) for conv in
                   (self.query_conv, self.key_conv, self.value_conv))
        weights = torch.softmax(q.transpose(2, 3) @ k / math.sqrt(C // self.heads), -1)
        return self.gamma * self.out_conv((v @ weights.transpose(2, 3)).reshape(x.shape)) + x


class Hybrid(nn.Module):
    """Squeeze-and-excitation of the channels, then attention over positions."""

    def __init__(self, C):
        super().__init__()
        self.channel, self.spatial = nn.Module(), Kind(C, lambda q, k, v: torch.softmax(q @ k.transpose(1, 2), -1) @ v)
        self.channel.fc1, self.channel.fc2 = nn.Conv2d(C, C // 8, 1), nn.Conv2d(C // 8, C, 1)

    def forward(self, x):
        s = torch.sigmoid(self.channel.fc2(F.relu(self.channel.fc1(x.mean((2, 3), keepdim=True)))))
        return self.spatial(x * s)


class Gate(nn.Module):
    """The seed's AttentionGenerator."""

    def __init__(self, C, out, width, stride):
        super().__init__()

        def conv(a, b):
            return nn.Conv2d(a, b, 3, stride, 1, bias=False)

        self.conv_block = nn.Sequential(conv(C, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, 1), nn.Sigmoid())
        self.conv_block2 = nn.Sequential(conv(C, out), nn.ReLU())

    def forward(self, x):
        a = F.interpolate(self.conv_block(x), x.shape[-2:], mode='bilinear', align_corners=False)
        return self.conv_block2(x * a + x)


class MultiHeadAttention(nn.Module):
    """The seed's, with its reshapes mended; mask: added to the scores, after they are scaled."""

    def __init__(self, heads, model, width):
        super().__init__()
        self.q_linear, self.k_linear, self.v_linear = (nn.Linear(model, heads * width) for _ in range(3))
        self.o_linear, self.heads, self.width = nn.Linear(heads * width, model), heads, width

    def forward(self, q, k, v, mask):
        B, N = q.shape[:2]
        q, k, v = (layer(x).view(B, -1, self.heads, self.width).transpose(1, 2) for layer, x in
                   ((self.q_linear, q), (self.k_linear, k), (self.v_linear, v)))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(self.width) + mask, -1)
        return self.o_linear((weights @ v).transpose(1, 2).reshape(B, N, -1))


def start(fam, block):
    for p in block.parameters():
        p.data = fam.normal(*p.shape, scale=0.5)
    round_state(block)
    return {key: value.clone() for key, value in block.state_dict().items()}


def attention_kinds():
    fam = Family('attention_kinds', 19)
    blocks = {
        'topk': Kind(16, topk), 'linear': Kind(16, linear), 'multihead': MultiHead(16, 4), 'hybrid': Hybrid(16),
        'gate': Gate(16, 16, 2, 1), 'gate_stride': Gate(16, 5, 3, 2),
    }
    for name, block in blocks.items():
        state = start(fam, block)
        x = leaf(fam.normal(2, 16, 4, 4))
        y = block(x)
        dy = leaf(fam.normal(*y.shape))
        out = dict(x=x, y=y, dy=dy, **state)
        out.update(second_order(y, dy, dict(x=x, **dict(block.named_parameters()))))
        fam.case(name, dict(B=2, C=16, H=4, W=4), out)
    return fam.save()


def multi_head_attention():
    fam = Family('multi_head_attention', 20)
    B, Nq, Nk, heads, model, width = 2, 5, 5, 3, 4, 2
    inf = torch.tensor(-math.inf)
    zero = torch.zeros(Nq, Nk)
    padding = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]])
    causal = torch.where(torch.ones(Nq, Nk).tril() == 1, zero, inf)
    masks = {
        'none': (zero, None), 'causal': (causal, None), 'additive': (fam.normal(Nq, Nk), 'given'),
        'boolean': (torch.where(padding == 1, 0.0, inf).view(B, 1, 1, Nk), padding.view(B, 1, 1, Nk)),
    }
    for name, (bias, mask) in masks.items():
        block = MultiHeadAttention(heads, model, width)
        state = start(fam, block)
        inputs = dict(q=leaf(fam.normal(B, Nq, model)), k=leaf(fam.normal(B, Nk, model)), v=leaf(fam.normal(B, Nk, model)))
        y = block(**inputs, mask=bias)
        dy = leaf(fam.normal(*y.shape))
        given = dict(mask=bias if mask == 'given' else mask.int() if mask is not None else None)
        out = dict(**inputs, y=y, dy=dy, **given, **state)
        out.update(second_order(y, dy, {**inputs, **dict(block.named_parameters())}))
        fam.case(name, dict(heads=heads, model=model, width=width, causal=name == 'causal'), out)
    return fam.save()
