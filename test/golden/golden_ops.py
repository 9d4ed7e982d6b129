"""Golden cases of single ops. The layouts are listed in make_golden.py."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from golden_io import Family, attention_of, f32, grads, leaf, round_state


def matmul():
    fam = Family('matmul', 1)
    cases = {
        'plain': ([], [], 3, 5, 7, False, False),
        'trans_a': ([], [], 5, 7, 3, True, False),
        'trans_b': ([], [], 7, 3, 5, False, True),
        'trans_ab': ([], [], 3, 11, 2, True, True),
        'one': ([], [], 1, 1, 1, False, False),
        'row': ([], [], 1, 67, 5, False, False),
        'column': ([], [], 67, 5, 1, False, True),
        'tile_edge': ([], [], 17, 33, 19, False, False),
        'batch': ([3], [3], 4, 5, 2, False, False),
        'batch_trans_a': ([2], [2], 9, 4, 5, True, False),
        'batch_of_b': ([1], [4], 3, 7, 2, False, True),
        'batch_of_a': ([4], [1], 3, 7, 2, True, False),
        'broadcast': ([2, 1], [1, 3], 2, 5, 3, False, False),
    }
    for name, (ba, bb, M, K, N, ta, tb) in cases.items():
        a = leaf(fam.normal(*ba, *((K, M) if ta else (M, K))))
        b = leaf(fam.normal(*bb, *((N, K) if tb else (K, N))))
        y = torch.matmul(a.transpose(-1, -2) if ta else a, b.transpose(-1, -2) if tb else b)
        dy = fam.normal(*y.shape)
        da, db = grads(y, dy, [a, b])
        params = dict(M=M, K=K, N=N, batchA=ba, batchB=bb, transA=ta, transB=tb)
        fam.case(name, params, dict(a=a, b=b, y=y, dy=dy, da=da, db=db))
    return fam.save()


def softmax():
    fam = Family('softmax', 2)
    cases = {
        'small': fam.normal(3, 5), 'one': fam.normal(1, 1), 'one_column': fam.normal(4, 1),
        'long': fam.normal(3, 257, scale=3), 'constant': torch.full((2, 7), 3.0),
        'logits_1e4': torch.cat([fam.uniform(-1e4, 1e4, 2, 33), f32(1e4 - fam.uniform(0, 8, 1, 33))]),
        'logits_minus_1e4': f32(fam.normal(2, 13) - 1e4),
    }
    for name, x in cases.items():
        x = leaf(x)
        y = torch.softmax(x, -1)
        dy = fam.normal(*y.shape)
        fam.case(name, dict(rows=x.shape[0], cols=x.shape[1]), dict(x=x, y=y, dy=dy, dx=grads(y, dy, [x])[0]))
    return fam.save()


def attention():
    fam = Family('attention', 3)
    sizes = {
        'square': (2, 16, 16, 4, 4, 1.0), 'pooled': (1, 16, 4, 2, 8, 1.0), 'odd': (2, 7, 5, 3, 11, 0.5773502588272095),
        'one': (1, 1, 1, 1, 1, 1.0), 'one_key': (3, 5, 1, 2, 3, 1.0), 'one_query': (1, 1, 13, 5, 2, 0.5),
        'edge': (1, 33, 37, 8, 9, 1.0),
    }
    for name, (B, Nq, Nk, DK, DV, scale) in sizes.items():
        for channel_major in (True, False):
            def of(n, d):
                return leaf(fam.normal(*((B, d, n) if channel_major else (B, n, d))))
            q, k, v = of(Nq, DK), of(Nk, DK), of(Nk, DV)
            o, lse = attention_of(q, k, v, scale, channel_major)
            dy = fam.normal(*o.shape)
            dq, dk, dv = grads(o, dy, [q, k, v])
            params = dict(B=B, Nq=Nq, Nk=Nk, DK=DK, DV=DV, scale=scale, channelMajor=channel_major)
            fam.case(f'{name}_{"channel" if channel_major else "sequence"}', params,
                     dict(q=q, k=k, v=v, o=o, lse=lse, dy=dy, dq=dq, dk=dk, dv=dv))
    return fam.save()


def conv2d():
    fam = Family('conv2d', 4)
    cases = {  # N C H W K (R S) stride pad bias
        'k1': (2, 5, 4, 3, 7, (1, 1), (1, 1), (0, 0), True),
        'k1_no_bias': (1, 8, 5, 5, 1, (1, 1), (1, 1), (0, 0), False),
        'k3_p1': (2, 3, 7, 5, 4, (3, 3), (1, 1), (1, 1), True),
        'k4_s2_p1': (2, 3, 8, 8, 5, (4, 4), (2, 2), (1, 1), True),
        'k4_s2_p1_odd': (1, 5, 9, 7, 3, (4, 4), (2, 2), (1, 1), False),
        'k4_to_one': (4, 3, 4, 4, 1, (4, 4), (1, 1), (0, 0), True),
        'k5_s3_p2': (1, 2, 11, 8, 3, (5, 5), (3, 3), (2, 2), False),
        'k2x3_s1x2': (2, 1, 5, 7, 2, (2, 3), (1, 2), (0, 1), True),
        'k1_s2': (2, 3, 5, 6, 2, (1, 1), (2, 2), (0, 0), False),
        'k7_larger_than_image': (1, 1, 3, 3, 2, (7, 7), (1, 1), (3, 3), False),
        'one': (1, 1, 1, 1, 1, (1, 1), (1, 1), (0, 0), True),
        'batch_16': (16, 2, 4, 4, 3, (3, 3), (2, 2), (1, 1), True),
        'k3_p1_17_to_19': (1, 17, 5, 5, 19, (3, 3), (1, 1), (1, 1), True),
    }
    for name, (N, C, H, W, K, (R, S), stride, pad, bias) in cases.items():
        x, w = leaf(fam.normal(N, C, H, W)), leaf(fam.normal(K, C, R, S))
        b = leaf(fam.normal(K)) if bias else None
        y = F.conv2d(x, w, b, stride, pad)
        dy = fam.normal(*y.shape)
        dx, dw, *db = grads(y, dy, [x, w, b])
        params = dict(N=N, C=C, H=H, W=W, K=K, R=R, S=S, stride=stride, pad=pad)
        fam.case(name, params, dict(x=x, w=w, bias=b, y=y, dy=dy, dx=dx, dw=dw, dbias=db[0] if db else None))
    return fam.save()


def conv_transpose2d():
    fam = Family('conv_transpose2d', 5)
    cases = {  # N Cin H W Cout (R S) stride pad output_padding bias
        'k4_s1_from_one': (4, 7, 1, 1, 5, (4, 4), (1, 1), (0, 0), (0, 0), True),
        'k4_s2_p1': (2, 3, 4, 4, 5, (4, 4), (2, 2), (1, 1), (0, 0), True),
        'k4_s2_p1_odd': (1, 5, 3, 5, 3, (4, 4), (2, 2), (1, 1), (0, 0), False),
        'k3_s2_p1_o1': (2, 3, 3, 4, 2, (3, 3), (2, 2), (1, 1), (1, 1), True),
        'k3_s1_p1': (1, 2, 5, 4, 3, (3, 3), (1, 1), (1, 1), (0, 0), False),
        'k5_s3_p2_o2': (1, 2, 3, 2, 3, (5, 5), (3, 3), (2, 2), (2, 2), False),
        'k2_s2': (2, 3, 3, 3, 1, (2, 2), (2, 2), (0, 0), (0, 0), True),
        'k2_s3_gaps': (1, 2, 3, 2, 2, (2, 2), (3, 3), (0, 0), (1, 0), True),
        'k3x5_s1x2': (2, 1, 4, 3, 2, (3, 5), (1, 2), (1, 0), (0, 1), True),
        'k1': (2, 3, 4, 3, 2, (1, 1), (1, 1), (0, 0), (0, 0), False),
        'one': (1, 1, 1, 1, 1, (1, 1), (1, 1), (0, 0), (0, 0), True),
        'batch_16': (16, 3, 2, 2, 2, (4, 4), (2, 2), (1, 1), (0, 0), True),
        'k4_s2_p1_17_to_19': (1, 17, 3, 3, 19, (4, 4), (2, 2), (1, 1), (0, 0), False),
    }
    for name, (N, Cin, H, W, Cout, (R, S), stride, pad, opad, bias) in cases.items():
        x, w = leaf(fam.normal(N, Cin, H, W)), leaf(fam.normal(Cin, Cout, R, S))
        b = leaf(fam.normal(Cout)) if bias else None
        y = F.conv_transpose2d(x, w, b, stride, pad, opad)
        dy = fam.normal(*y.shape)
        dx, dw, *db = grads(y, dy, [x, w, b])
        params = dict(N=N, Cin=Cin, H=H, W=W, Cout=Cout, R=R, S=S, stride=stride, pad=pad, outputPad=opad)
        fam.case(name, params, dict(x=x, w=w, bias=b, y=y, dy=dy, dx=dx, dw=dw, dbias=db[0] if db else None))
    return fam.save()


def batch_norm():
    fam = Family('batch_norm', 6)
    eps, momentum = 1e-5, 0.1

    def one(name, x, training, gamma=None, beta=None, mean=None, var=None):
        x, gamma, beta = leaf(x), leaf(gamma), leaf(beta)
        after = [None if t is None else t.clone() for t in (mean, var)]
        y = F.batch_norm(x, *after, gamma, beta, training, momentum, eps)
        dy = fam.normal(*y.shape)
        dx, *rest = grads(y, dy, [x, gamma, beta])
        N, C, H, W = x.shape
        tensors = dict(x=x, gamma=gamma, beta=beta, runningMean=mean, runningVar=var, y=y, dy=dy, dx=dx)
        if gamma is not None:
            tensors.update(dgamma=rest[0], dbeta=rest[1])
        if mean is not None:
            tensors.update(runningMeanAfter=after[0], runningVarAfter=after[1])
        fam.case(name, dict(N=N, C=C, H=H, W=W, training=training, eps=eps, momentum=momentum), tensors)
        return after

    def affine(C):
        return dict(gamma=fam.uniform(0.5, 1.5, C), beta=fam.normal(C))

    def running(C):
        return dict(mean=fam.normal(C), var=fam.uniform(0.5, 2, C))

    one('train', fam.normal(2, 3, 5, 4), True, **affine(3), **running(3))
    one('train_no_affine', fam.normal(4, 5, 3, 3), True, **running(5))
    one('train_no_running', fam.normal(2, 2, 3, 5), True, **affine(2))
    one('train_mean_100', fam.normal(4, 3, 5, 5, mean=100), True, **affine(3), **running(3))
    one('train_mean_100_std_01', fam.normal(4, 3, 8, 8, mean=100, scale=0.1), True, **affine(3), **running(3))
    one('train_one_position', fam.normal(7, 3, 1, 1), True, **affine(3), **running(3))
    one('train_one_image', fam.normal(1, 5, 3, 3), True, **affine(5), **running(5))
    one('train_17_channels', fam.normal(2, 17, 4, 4, scale=3), True, **affine(17), **running(17))
    one('eval', fam.normal(2, 3, 5, 4), False, **affine(3), **running(3))
    one('eval_no_affine', fam.normal(1, 2, 3, 1), False, **running(2))
    weights = affine(3)
    state = [torch.zeros(3), torch.ones(3)]
    for call in (1, 2, 3):
        # rounded between calls, so that each call is a case of its own
        state = [f32(t) for t in one(f'calls_{call}', fam.normal(3, 3, 2, 3, mean=call), True, **weights,
                                     mean=state[0], var=state[1])]
    one('calls_eval', fam.normal(2, 3, 3, 2), False, **weights, mean=state[0], var=state[1])
    return fam.save()


def spectral():
    fam = Family('spectral_norm', 7)
    cases = {
        'linear': (nn.Linear(7, 5), 0, fam.normal(2, 7)),
        'conv2d': (nn.Conv2d(3, 4, 3), 0, fam.normal(1, 3, 5, 5)),
        'conv_transpose2d': (nn.ConvTranspose2d(6, 5, (4, 3)), 1, fam.normal(1, 6, 2, 2)),
        'embedding': (nn.Embedding(6, 3), 0, torch.tensor([0, 5])),
        'one_row': (nn.Linear(9, 1), 0, fam.normal(2, 9)),
    }
    for name, (module, dim, x) in cases.items():
        module = round_state(spectral_norm(module))
        shape = list(module.weight_orig.shape)
        rows = shape[dim]
        dweight = fam.normal(*shape)
        out = dict(weight_orig=module.weight_orig.clone(), weight_u=module.weight_u.clone(),
                   weight_v=module.weight_v.clone(), dweight=dweight)

        def call():
            module(x)
            return grads(module.weight, dweight, [module.weight_orig])[0]

        module.train()
        for i in range(1, 5):
            grad = call()
            u, v = module.weight_u.clone(), module.weight_v.clone()
            sigma = (module.weight_orig / module.weight).detach().flatten()[0]
            out.update({f'u{i}': u, f'v{i}': v, f'sigma{i}': sigma.reshape(1),
                        f'weight{i}': module.weight.detach().clone(), f'grad{i}': grad})
        module.eval()
        out['grad_eval'] = call()
        out['weight_eval'] = module.weight.detach().clone()
        assert torch.equal(u, module.weight_u) and torch.equal(v, module.weight_v)
        params = dict(kind=name, rows=rows, cols=int(np.prod(shape)) // rows, dim=dim, shape=shape, eps=1e-12)
        fam.case(name, params, out)
    return fam.save()


def pooling():
    fam = Family('pooling', 8)
    cases = {
        'k2': (2, 3, 4, 6, (2, 2), (2, 2), (0, 0)), 'k2_odd': (1, 5, 7, 5, (2, 2), (2, 2), (0, 0)),
        'k3_s2_p1': (2, 2, 7, 8, (3, 3), (2, 2), (1, 1)), 'k1': (1, 3, 3, 2, (1, 1), (1, 1), (0, 0)),
        'k3_s1_p1': (1, 2, 5, 5, (3, 3), (1, 1), (1, 1)), 'k4_global': (4, 3, 4, 4, (4, 4), (4, 4), (0, 0)),
        'k2x3_s3x1': (1, 1, 7, 5, (2, 3), (3, 1), (1, 0)),
    }
    for kind, f in (('max', F.max_pool2d), ('avg', F.avg_pool2d)):
        for name, (N, C, H, W, k, s, p) in cases.items():
            for ties in (False, True):
                if ties and (kind, name) != ('max', 'k3_s2_p1'):
                    continue
                x = leaf(fam.normal(N, C, H, W).round() if ties else fam.normal(N, C, H, W))
                y = f(x, k, s, p)
                dy = fam.normal(*y.shape)
                params = dict(kind=kind, N=N, C=C, H=H, W=W, kernel=k, stride=s, pad=p)
                fam.case(f'{kind}_{name}{"_ties" if ties else ""}', params,
                         dict(x=x, y=y, dy=dy, dx=grads(y, dy, [x])[0]))
    for name in ('k3_s2_p1', 'k3_s1_p1', 'k2x3_s3x1'):
        N, C, H, W, k, s, p = cases[name]
        x = leaf(fam.normal(N, C, H, W))
        y = F.avg_pool2d(x, k, s, p, count_include_pad=False)
        dy = fam.normal(*y.shape)
        params = dict(kind='avg', N=N, C=C, H=H, W=W, kernel=k, stride=s, pad=p, countIncludePad=False)
        fam.case(f'avg_{name}_inside', params, dict(x=x, y=y, dy=dy, dx=grads(y, dy, [x])[0]))
    return fam.save()


def resize():
    fam = Family('resize', 9)
    for N, C, H, W in ((2, 3, 4, 5), (1, 1, 1, 1), (4, 2, 3, 1)):
        x = leaf(fam.normal(N, C, H, W))
        y = F.interpolate(x, scale_factor=2, mode='nearest')
        dy = fam.normal(*y.shape)
        fam.case(f'nearest_{H}x{W}', dict(kind='nearest', N=N, C=C, H=H, W=W, factor=2),
                 dict(x=x, y=y, dy=dy, dx=grads(y, dy, [x])[0]))
    for N, C, H, W, P, Q in ((2, 3, 4, 4, 8, 8), (1, 2, 8, 6, 4, 3), (1, 1, 5, 7, 11, 3), (2, 1, 1, 1, 3, 4),
                             (1, 2, 3, 5, 3, 5), (1, 1, 7, 7, 1, 1)):
        x = leaf(fam.normal(N, C, H, W))
        y = F.interpolate(x, size=(P, Q), mode='bilinear', align_corners=False)
        dy = fam.normal(*y.shape)
        fam.case(f'bilinear_{H}x{W}_to_{P}x{Q}', dict(kind='bilinear', N=N, C=C, H=H, W=W, P=P, Q=Q),
                 dict(x=x, y=y, dy=dy, dx=grads(y, dy, [x])[0]))
    return fam.save()


def embedding():
    fam = Family('embedding', 10)
    for name, V, D, index in (('repeats', 7, 5, [3, 0, 3, 6, 3, 0]), ('one', 1, 1, [0]),
                              ('wide', 3, 67, [2, 0]), ('one_row_often', 5, 3, [4] * 37)):
        table, index = leaf(fam.normal(V, D)), torch.tensor(index)
        y = F.embedding(index, table)
        dy = fam.normal(*y.shape)
        fam.case(name, dict(V=V, D=D), dict(table=table, index=index.int(), y=y, dy=dy,
                                            dtable=grads(y, dy, [table])[0]))
    return fam.save()


def activations():
    fam = Family('activations', 11)
    wide = torch.cat([fam.normal(61, scale=3), torch.tensor([0.0, 1.0, -1.0, 2.0 ** -20, -(2.0 ** -20), 12.0, -12.0])])
    huge = torch.cat([wide, torch.tensor([80.0, -80.0, 1e4, -1e4])])
    positive = torch.cat([fam.uniform(0.01, 10, 61), torch.tensor([1.0, 1e-6, 1e6, 0.5, 2.0])])
    apart = wide[wide != 0]
    functions = {
        'relu': (torch.relu, huge), 'tanh': (torch.tanh, huge), 'sigmoid': (torch.sigmoid, huge),
        'softplus': (F.softplus, huge),  # linear past 20: 2e-9 from the function itself, under half an ulp of 20
        'exp': (torch.exp, wide), 'log': (torch.log, positive), 'sqrt': (torch.sqrt, positive),
        'rsqrt': (torch.rsqrt, positive), 'neg': (torch.neg, wide), 'abs': (torch.abs, wide),
        'square': (torch.square, wide), 'reciprocal': (torch.reciprocal, apart),
    }
    for slope in (0.1, 0.2):
        functions[f'leakyRelu_{slope}'] = (lambda x, s=slope: F.leaky_relu(x, s), huge)
    for name, (f, x) in functions.items():
        x = leaf(f32(x))
        y = f(x)
        dy = fam.normal(*y.shape)
        params = dict(f=name.split('_')[0])
        if '_' in name:
            params['slope'] = float(name.split('_')[1])
        fam.case(name, params, dict(x=x, y=y, dy=dy, dx=grads(y, dy, [x])[0]))
    return fam.save()


def arithmetic():
    fam = Family('arithmetic', 12)
    functions = dict(add=torch.add, sub=torch.sub, mul=torch.mul, div=torch.div, maximum=torch.maximum)
    shapes = {'same': ([3, 5], [3, 5]), 'row': ([4, 7], [7]), 'channel': ([2, 3, 2, 2], [1, 3, 1, 1]),
              'both': ([2, 1, 3], [5, 1]), 'scalar': ([2, 3], [])}
    for name, f in functions.items():
        for kind, (sa, sb) in shapes.items():
            a, b = leaf(fam.normal(*sa)), fam.normal(*sb)
            if name == 'div':
                b = f32(torch.where(b.abs() < 0.3, torch.tensor(1.5), b))
            if name == 'maximum' and kind == 'same':
                b[0] = a.detach()[0]
            b = leaf(b)
            y = f(a, b)
            dy = fam.normal(*y.shape)
            da, db = grads(y, dy, [a, b])
            fam.case(f'{name}_{kind}', dict(f=name, shapeA=sa, shapeB=sb), dict(a=a, b=b, y=y, dy=dy, da=da, db=db))
    return fam.save()


def reduce():
    fam = Family('reduce', 13)
    functions = dict(sum=torch.sum, mean=torch.mean, max=torch.amax)
    cases = {'all': ([3, 5], [0, 1]), 'rows': ([5, 7], [1]), 'columns': ([7, 5], [0]), 'channels': ([2, 3, 4, 5], [0, 2, 3]),
             'outer_inner': ([3, 5, 7], [0, 2]), 'middle': ([2, 11, 3], [1]), 'one': ([1], [0]), 'long': ([2, 1031], [1])}
    for name, f in functions.items():
        for kind, (shape, axes) in cases.items():
            x = fam.normal(*shape)
            if kind == 'columns':
                x = x.round()  # ties
            x = leaf(x)
            y = f(x, dim=axes, keepdim=True)
            dy = fam.normal(*y.shape)
            fam.case(f'{name}_{kind}', dict(f=name, shape=shape, axes=axes), dict(x=x, y=y, dy=dy, dx=grads(y, dy, [x])[0]))
    return fam.save()
