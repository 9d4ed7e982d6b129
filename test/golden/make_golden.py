#!/usr/bin/env python3
"""Writes the golden files beside this script: what PyTorch says about every family.

    apt-get install python3-torch python3-numpy      # Debian 12: PyTorch 1.13, NumPy 1.24
    /usr/bin/python3 test/golden/make_golden.py

Every input is a float32 number. PyTorch computes in float64, and each result is rounded once to float32, so a golden
value is within half an ulp of the exact one and what a test sees is the error of what it tests. Two runs write the same
bytes.

Layout. A file holds cases; tensor `T` of case `c` is stored as `c/T`, and the parameters of case `c` as JSON under the key
`c` of `__metadata__`. Gradients are those of sum(y · dy): `dx` belongs to `x`. F32 unless said otherwise. Pairs are
[vertical, horizontal]. Parameter names are those of test/reference.

matmul            a b y dy da db                      M K N batchA batchB transA transB
softmax           x y dy dx                           rows cols            (`logits_1e4` spans ±1e4)
attention         q k v o lse dy dq dk dv             B Nq Nk DK DV scale channelMajor
conv2d            x w [bias] y dy dx dw [dbias]       N C H W K R S stride pad
conv_transpose2d  x w [bias] y dy dx dw [dbias]       N Cin H W Cout R S stride pad outputPad
batch_norm        x [gamma beta] [runningMean runningVar] y dy dx [dgamma dbeta] [runningMeanAfter runningVarAfter]
                                                      N C H W training eps momentum
                  `calls_1`, `calls_2`, `calls_3`: one module called three times; then `calls_eval` in evaluation mode
spectral_norm     weight_orig weight_u weight_v (before), dweight, and for calls i = 1…4 in training mode
                  u{i} v{i} sigma{i} weight{i} grad{i}   grad{i} = d sum(weight{i} · dweight) / d weight_orig
                  weight_eval grad_eval: a fifth call, in evaluation mode; u and v stay those of call 4
                                                      kind rows cols dim shape eps
pooling           x y dy dx                           kind ("max" | "avg") N C H W kernel stride pad
resize            x y dy dx                           kind ("nearest" | "bilinear") N C H W, factor or P Q
embedding         table index (I32) y dy dtable       V D
activations       x y dy dx                           f (name in test/reference/pointwise.ts) [slope]
arithmetic        a b y dy da db                      f shapeA shapeB
reduce            x y dy dx                           f ("sum" | "mean" | "max") shape axes
adam              p0 [n], g [steps, n], p m v [steps, n] after each step     lr beta1 beta2 eps weightDecay
                  `groups_a` and `groups_b` are two parameter groups of one optimiser
sgd               p0 [n], g [steps, n], p [steps, n] [buffer [n] after the last]
                                                      lr momentum dampening nesterov weightDecay
double_backward   inputs, dy, y, grad.T, second.T for every input T and for dy     inputs (their names) and the case's own
                  grad.T = d sum(y · dy) / dT; second.T = d (Σ over inputs I of sum(grad.I²)) / dT
self_attention_blocks
                  x y dy attention [B, Nq, Nk], state (`query_conv.weight`, …, `gamma`), grad.x, grad.<parameter>,
                  second.x, second.dy, second.<parameter> with second as in double_backward, over x and every parameter
                                                      B C H W scale
                  `plain`, `scaled`: query_conv, key_conv C → C/8, value_conv C → C, biases; y = gamma·o + x
                  `paper`: theta, phi C → C/8, g C → C/2, o C/2 → C, no biases, 2×2 max pool of phi and g
                  `paper_sn`: the same under spectral norm, one training forward; state is before it,
                  and `after.<buffer>` are u and v behind it
losses            real [N] fake [M] (scores up to ±1000), d dReal dFake (D's loss and its gradients), g gFake (G's)
                                                      loss (its name in src/train/losses.ts) smoothing
penalties         real fake [3, 3, 8, 8], alpha [3, 1, 1, 1] (`gp`), state of a discriminator (start, training mode), penalty,
                  grad.<parameter>; see `penalties` in golden_losses.py
                                                      B (of images)
attention_kinds   x y dy, state, grad.x, grad.<parameter>, second.x, second.dy, second.<parameter> as self_attention_blocks
                                                      B C H W
                  `topk` of 3 keys, `linear`: parameters of `plain`; `multihead` of 4 heads; `hybrid`; `gate`, and
                  `gate_stride` with 5 output channels, a gate 3 wide and stride 2
multi_head_attention
                  q k v y dy [mask: F32 added to scores, or I32 with 0 for hidden], state, grad.T and second.T likewise
                                                      heads model width causal
sagan_step        ten steps of a small SAGAN, batch 4, 16×16 colour; see `sagan_step` in golden_models.py. No case: tensors are
                  g.start.<key> d.start.<key> g.final.<key> d.final.<key>   state dicts, num_batches_tracked as I64
                  real [10, 4, 3, 16, 16], z_d z_g [10, 4, 16, 1, 1], d_loss g_loss [10]
                  d.grad.<parameter> of the first D step, g.grad.<parameter> of the first G step
                  fake [4, 3, 16, 16]: G(z_d[0]) in the first D step; d_real d_fake [4]: D's outputs there
sagan_weights     a checkpoint of two nets as people save it: state dicts netG.<key> and netD.<key>, num_batches_tracked as
                  I64; z [5, 6], images [5, 3, 16, 16] = G(z) in evaluation mode, scores [5] = D(images)
dcgan_step        the gradients of one step of the attention DCGAN in small, by binary cross-entropy; see golden_dcgan.py
                  real [3, 3, 16, 16] z [2, 3, latent]; the others as resnet_step's
                                                      imageSize width latentSize slope
progressive_step  the gradients of one step of the nets of progressive growing in small, by the hinge loss; see
                  golden_progressive.py. `fading` is 16×16 with α = ¼, `whole` 8×8 behind its fade; a part of the nets that
                  is absent has no gradient. real [3, 3, 16, 16] z [2, 3, latent]
                  seen: the real images as the nets see them; the others as resnet_step's
                                                      imageSize width latentSize slope at stageSteps step
video_step        the gradients of one step of the GAN of clips in small, by 3-D layers whose weights lose their axes of one;
                  see golden_video.py. real [2, 1, 4, 16, 16] z [2, 2, latent]; the others as resnet_step's
                                                      imageSize frames width latentSize channels slope
space_time_attention
                  x [2, 16, 3, 4, 2] y dy, map [2, 1, 3, 4, 2] of the query at `place`, state, grad.T and second.T as
                  self_attention_blocks               place (frame, row, column)
resnet_step       the gradients of one step of the authors' SAGAN in small, batch 2; see golden_resnet.py. `small` is the
                  net of images to 32×32, told classes; `large` the other one, told none; `told` the
                  first with classes in its attention too
                  real z [2, 2, latent] labels made [2, 2] (I32: classes of real images, and of those made)
                  g.start.<key> d.start.<key>   state dicts
                  fake d_real d_fake d_loss g_loss   g.grad.<parameter> d.grad.<parameter>   g.after.<buffer> d.after.<buffer>
                  error.<any of the last line>   how far PyTorch's float32 is off, the largest of the tensor, a scalar
                                                      imageSize width latentSize classes, attention and at (its kind and feature size)
vae               the loss of a small VAE with attention at 8×8 and its gradients, batch 3; see golden_vae.py. `told` is told classes
                  x [3, channels, 16, 16], noise [3, latent], [labels (I32)], encoder.start.<key> generator.start.<key> (the decoder's)
                  moments [3, 2·latent] z [3, latent] images loss reconstruction kl   encoder.grad.<parameter> generator.grad.<parameter>
                  error.<any of the last line>   as in resnet_step
                                                      imageSize channels width latentSize slope attention classes reconstruction klWeight
diff_augment      x [N, C, H, W] or [N, C, T, H, W], u [N, 8] in [0, 1), dy y dx, second.dy = d sum(dx²)/d dy        which
layer_norm        x gamma beta dy y, grad.T and second.T likewise                    eps
cross_entropy     logits [rows, classes] labels [rows] (I32) loss dlogits           smoothing, ignore (a label, or null)
metrics           what NumPy and SciPy say about the measures of generators; see golden_metrics.py (which needs no PyTorch)
transformer       the loss of an encoder-decoder and its gradients; see golden_seq2seq.py. Words are I32, 0 is padding
                  source [B, S] target labels [B, T] logits [B, T, targetWords] loss, state, grad.<parameter>
                  error.<any of the last line but state>   as resnet_step's
                                                      width heads hidden layers sourceWords targetWords
"""
import sys

sys.dont_write_bytecode = True  # no __pycache__ in the tree

import golden_augment as augment
import golden_dcgan as dcgan
import golden_inception as inception
import golden_kinds as kinds
import golden_losses as losses
import golden_metrics as metrics
import golden_models as models
import golden_ops as ops
import golden_progressive as progressive
import golden_resnet as resnet
import golden_seq2seq as seq2seq
import golden_vae as vae
import golden_video as video
import golden_weights as weights

FAMILIES = [
    ops.matmul, ops.softmax, ops.attention, ops.conv2d, ops.conv_transpose2d, ops.batch_norm, ops.spectral, ops.pooling,
    ops.resize, ops.embedding, ops.activations, ops.arithmetic, ops.reduce,
    models.adam, models.sgd, models.double_backward, models.self_attention_blocks, models.sagan_step,
    losses.losses, losses.penalties,
    weights.sagan_weights,
    resnet.resnet_step, dcgan.dcgan_step, progressive.progressive_step, vae.vae,
    kinds.attention_kinds, kinds.multi_head_attention,
    video.video_step, video.space_time_attention,
    inception.inception,
    seq2seq.layer_norm, seq2seq.cross_entropy, seq2seq.transformer,
    augment.diff_augment,
    metrics.metrics,
]

if __name__ == '__main__':
    print(f'{sum(family() for family in FAMILIES)} bytes in all')
