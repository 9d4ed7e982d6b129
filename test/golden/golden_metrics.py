"""What NumPy and SciPy say about the measures of generators, in float64 from float32 features.

    /usr/bin/python3 test/golden/golden_metrics.py

A case holds features `real` [n, d] and `made` [m, d], `probabilities` [m, classes], and the rows of subsets `real_rows` and
`made_rows` [subsets, size] (I32); its parameters are the results: fd, kid, kidStd, is, isStd, precision, recall, density,
coverage. The trace of the root is a sum of singular values of centred features; where both covariances have full rank,
scipy.linalg.sqrtm must agree with it.
"""
import sys

sys.dont_write_bytecode = True

import numpy as np
from scipy.linalg import sqrtm

from golden_io import Family


def frechet(x, y):
    a, b = x - x.mean(0), y - y.mean(0)
    a, b = a / np.sqrt(len(x) - 1), b / np.sqrt(len(y) - 1)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    s, t = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    if min(np.linalg.matrix_rank(s), np.linalg.matrix_rank(t)) == x.shape[1]:
        assert abs(np.trace(sqrtm(s @ t)).real - root) < 1e-9 * (1 + root)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * root


def kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def kid(x, y, rows):
    estimates = []
    for i, j in rows:
        a, b, m = x[i], y[j], len(i)
        xx, yy = kernel(a, a), kernel(b, b)
        same = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (m * (m - 1))
        estimates.append(same - 2 * kernel(a, b).mean())
    return np.mean(estimates), np.std(estimates)


def inception_score(p, splits):
    scores = []
    for k in range(splits):
        part = p[k * len(p) // splits:(k + 1) * len(p) // splits]
        logs = np.log(np.where(part > 0, part, 1)) - np.where(part > 0, np.log(part.mean(0, keepdims=True) + 1e-300), 0)
        scores.append(np.exp((part * logs).sum(1).mean()))
    return np.mean(scores), np.std(scores)


def distances(x, y):
    """Squared, from differences."""
    return ((x[:, None] - y[None]) ** 2).sum(2)


def radii(x, k):
    return np.sort(distances(x, x), axis=1)[:, k]  # the 0th is the row itself


def neighbours(x, y):
    d = distances(x, y)
    of3, made3, of5 = radii(x, 3), radii(y, 3), radii(x, 5)
    return {
        'precision': (d <= of3[:, None]).any(0).mean(),
        'recall': (d <= made3[None]).any(1).mean(),
        'density': (d < of5[:, None]).sum(0).mean() / 5,
        'coverage': (d < of5[:, None]).any(1).mean(),
    }


def metrics():
    family = Family('metrics', 31)
    rng = family.rng

    def features(n, d, rank=None, mean=0.0, scale=1.0):
        base = rng.standard_normal((n, rank or d))
        mixed = base if rank is None else base @ rng.standard_normal((rank, d))
        return (mixed * scale + mean).astype('<f4')

    def case(name, x, y, subsets=4, size=None, classes=5):
        size = size or min(len(x), len(y)) // 2
        logits = rng.standard_normal((len(y), classes)) * 2
        p = np.exp(logits)
        p = (p / p.sum(1, keepdims=True)).astype('<f4')
        rows = [[rng.permutation(len(s))[:size] for s in (x, y)] for _ in range(subsets)]
        x64, y64 = x.astype('f8'), y.astype('f8')
        mean, std = kid(x64, y64, rows)
        score, score_std = inception_score(p.astype('f8'), 3)
        results = {'fd': frechet(x64, y64), 'kid': mean, 'kidStd': std, 'is': score, 'isStd': score_std,
                   **neighbours(x64, y64)}
        family.case(name, {k: float(v) for k, v in results.items()}, {
            'real': x, 'made': y, 'probabilities': p,
            'real_rows': np.array([r[0] for r in rows], '<i4'), 'made_rows': np.array([r[1] for r in rows], '<i4'),
        })

    case('plain', features(150, 6), features(131, 6, mean=0.3, scale=1.2))
    case('many_tiles', features(260, 70), features(199, 70, mean=0.1), subsets=3)
    case('far_from_zero', features(70, 8, mean=1000.0), features(80, 8, mean=1000.5))
    case('fewer_than_features', features(20, 33), features(17, 33, mean=0.2))
    case('few_against_many', features(90, 24), features(10, 24))
    case('low_rank', features(60, 16, rank=3), features(60, 16, rank=5))
    case('collapsed', features(50, 12), np.repeat(features(1, 12), 40, 0))
    case('both_collapsed', np.repeat(features(1, 7), 30, 0), np.repeat(features(1, 7), 20, 0))
    same = features(40, 9)
    case('equal_sets', same, same.copy(), size=40)
    half = features(25, 9)
    case('doubled', np.concatenate([half, half]), np.concatenate([half[:10], half[:10] + 1]))
    case('one_feature', features(40, 1), features(35, 1, scale=0.5))
    return family.save()


if __name__ == '__main__':
    metrics()
