"""Golden cases of sequence to sequence: layer norm, cross-entropy, a whole encoder-decoder. Layouts: make_golden.py."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from golden_io import Family, leaf, round_state, second_order


def layer_norm():
    fam = Family('layer_norm', 21)
    for name, shape, mean, eps in (('rows', (3, 5), 0.0, 1e-5), ('sequence', (2, 3, 8), 20.0, 1e-3)):
        x, gamma, beta = leaf(fam.normal(*shape, mean=mean)), leaf(fam.normal(shape[-1])), leaf(fam.normal(shape[-1]))
        y = F.layer_norm(x, shape[-1:], gamma, beta, eps)
        dy = leaf(fam.normal(*shape))
        out = dict(x=x, gamma=gamma, beta=beta, y=y, dy=dy)
        out.update(second_order(y, dy, dict(x=x, gamma=gamma, beta=beta)))
        fam.case(name, dict(eps=eps), out)
    return fam.save()


def cross_entropy():
    fam = Family('cross_entropy', 22)
    for name, smoothing, ignore in (('plain', 0.0, None), ('smoothed', 0.1, None), ('padded', 0.1, 0)):
        logits = leaf(fam.normal(6, 5, scale=3))
        labels = torch.tensor([1, 0, 4, 0, 2, 3])
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing, ignore_index=-100 if ignore is None else ignore)
        fam.case(name, dict(smoothing=smoothing, ignore=ignore),
                 dict(logits=logits, labels=labels.int(), loss=loss, dlogits=torch.autograd.grad(loss, logits)[0]))
    return fam.save()


WIDTH, HEADS, HIDDEN, LAYERS = 8, 2, 12, 2
SOURCE, TARGET = 7, 6  # words


def sinusoids(length, width):
    at, rate = torch.arange(length).double()[:, None], torch.exp(-math.log(1e4) * torch.arange(0, width, 2).double() / width)
    return torch.stack([torch.sin(at * rate), torch.cos(at * rate)], -1).flatten(1)


class Seq2Seq(nn.Module):
    """torch.nn.Transformer, norms first, between embeddings and an output layer."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(SOURCE, WIDTH), nn.Embedding(TARGET, WIDTH)
        self.body = nn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, HIDDEN, 0.0, batch_first=True, norm_first=True)
        self.output = nn.Linear(WIDTH, TARGET)

    def forward(self, source, target):
        def embed(table, words):
            return table(words) * math.sqrt(WIDTH) + sinusoids(words.shape[1], WIDTH).to(table.weight)

        padding, later = source == 0, torch.ones(target.shape[1], target.shape[1]).triu(1).bool()
        return self.output(self.body(embed(self.source, source), embed(self.target, target), tgt_mask=later,
                                     src_key_padding_mask=padding, memory_key_padding_mask=padding))


def ours(named):
    """Their names as ours: query, key and value lie in one tensor there, and a stack's embedding beside it."""
    for key, value in named:
        key = key.replace('source.', 'encoder.embedding.').replace('target.', 'decoder.embedding.').replace('body.', '')
        if 'in_proj_' in key:
            stem, kind = key.split('in_proj_')
            for part, letter in zip(value.chunk(3), 'qkv'):
                yield f'{stem}{letter}_linear.{kind}', part
        else:
            yield key.replace('out_proj', 'o_linear'), value


def transformer():
    """One loss and its gradients; a source and a target of each length, padded with 0."""
    fam = Family('transformer', 23)
    net = Seq2Seq()
    for p in net.parameters():
        p.data = fam.normal(*p.shape, scale=0.4)
    round_state(net).train()
    source = torch.tensor([[3, 5, 6, 2, 0], [4, 2, 0, 0, 0], [6, 6, 3, 4, 2]])
    target = torch.tensor([[1, 5, 4, 0], [1, 3, 0, 0], [1, 4, 4, 5]])
    labels = torch.tensor([[5, 4, 2, 0], [3, 2, 0, 0], [4, 4, 5, 2]])

    def run():
        logits = net(source, target)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0, label_smoothing=0.1)
        names, parameters = zip(*net.named_parameters())
        grads = ours(zip(names, torch.autograd.grad(loss, parameters)))
        return dict(logits=logits, loss=loss, **{f'grad.{n}': g for n, g in grads})

    out, state = run(), dict(ours(net.state_dict().items()))
    net.float()
    out.update({f'error.{key}': (value.double() - out[key]).abs().max() for key, value in run().items()})
    fam.case('small', dict(width=WIDTH, heads=HEADS, hidden=HIDDEN, layers=LAYERS, sourceWords=SOURCE, targetWords=TARGET),
             dict(source=source.int(), target=target.int(), labels=labels.int(), **state, **out))
    return fam.save()
