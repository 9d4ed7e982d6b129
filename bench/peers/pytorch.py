"""PyTorch as a peer: the worker's protocol (worker.ts) in Python. `--probe` prints what is installed, as JSON."""
import json
import os
import resource
import struct
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

LOSS_STEPS = 4
WARM_UPS = 2


def probe():
    cuda = torch.cuda.is_available()
    return dict(version=torch.__version__, threads=torch.get_num_threads(), cuda=torch.cuda.get_device_name(0) if cuda else None)


class Setting:
    """cpu, cuda, cuda-tf32, cuda-f16 (autocast, channels_last in a training step); f64 on the CPU makes golden losses."""

    def __init__(self, name):
        self.device = torch.device('cuda' if name.startswith('cuda') else 'cpu')
        self.dtype = torch.float64 if name == 'f64' else torch.float32
        self.half = name == 'cuda-f16'
        if self.device.type == 'cuda':
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == 'cuda-tf32'
            torch.backends.cudnn.benchmark = True

    def tensor(self, array):
        return torch.from_numpy(array).to(self.device, self.dtype)

    def autocast(self):
        return torch.autocast('cuda', dtype=torch.float16, enabled=self.half)

    def sync(self):
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def read_safetensors(path):
    blob = open(path, 'rb').read()
    start = 8 + struct.unpack('<Q', blob[:8])[0]
    header = json.loads(blob[8:start])
    metadata = header.pop('__metadata__', {})
    tensors = {}
    for name, entry in header.items():
        a, b = entry['data_offsets']
        tensors[name] = np.frombuffer(blob[start + a:start + b], '<f4').reshape(entry['shape']).copy()
    return tensors, metadata


def write_safetensors(path, tensors):
    arrays = {name: np.ascontiguousarray(t.detach().float().cpu().numpy(), '<f4').reshape(-1) for name, t in tensors.items()}
    header, offset = {}, 0
    for name, a in arrays.items():
        header[name] = dict(dtype='F32', shape=[a.size], data_offsets=[offset, offset + a.nbytes])
        offset += a.nbytes
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + b''.join(a.tobytes() for a in arrays.values()))


class SelfAttention(nn.Module):
    def __init__(self, channels, norm=lambda module: module):
        super().__init__()
        width = max(1, channels // 8)
        self.query_conv, self.key_conv = norm(nn.Conv2d(channels, width, 1)), norm(nn.Conv2d(channels, width, 1))
        self.value_conv, self.gamma = norm(nn.Conv2d(channels, channels, 1)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        q, k, v = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        weights = torch.softmax(q.transpose(1, 2) @ k, -1)
        return self.gamma * (v @ weights.transpose(1, 2)).view_as(x) + x


def layer_of(spec):
    kind = spec['type']
    if kind in ('conv', 'convTranspose'):
        make = nn.Conv2d if kind == 'conv' else nn.ConvTranspose2d
        layer = make(spec['from'], spec['to'], spec['kernel'], spec['stride'], spec['padding'])
        return spectral_norm(layer) if spec['spectral'] else layer
    if kind == 'batchNorm':
        return nn.BatchNorm2d(spec['features'])
    if kind == 'attention':
        return SelfAttention(spec['channels'], *([spectral_norm] if spec['spectral'] else []))
    return dict(leakyRelu=lambda: nn.LeakyReLU(spec['slope']), relu=nn.ReLU, tanh=nn.Tanh)[kind]()


class Net(nn.Module):
    def __init__(self, specs):
        super().__init__()
        self.main = nn.Sequential(*map(layer_of, specs))

    def forward(self, x):
        return self.main(x)


def load(module, values, prefix):
    """Every parameter and every u; v is made from u at each forward pass."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if isinstance(value, nn.Parameter) or name.endswith('weight_u'):
                value.copy_(torch.from_numpy(values[prefix + name]))


def prepare_gan(setting, spec, values):
    nets = {}
    for prefix, name in (('g.', 'generator'), ('d.', 'discriminator')):
        nets[prefix] = Net(spec[name])
        load(nets[prefix], values, prefix)
        nets[prefix].to(setting.device, setting.dtype)
        if setting.half:
            nets[prefix].to(memory_format=torch.channels_last)
    G, D, options = nets['g.'], nets['d.'], spec['adam']
    adam = dict(betas=(options['beta1'], options['beta2']), eps=options['eps'])
    opt_g = torch.optim.Adam(G.parameters(), lr=options['lrG'], **adam)
    opt_d = torch.optim.Adam(D.parameters(), lr=options['lrD'], **adam)
    scaler_g, scaler_d = (torch.cuda.amp.GradScaler(init_scale=1024, enabled=setting.half) for _ in range(2))
    feeds = {name: setting.tensor(values[name]) for name in ('real', 'zD', 'zG')}
    if setting.half:
        feeds['real'] = torch.stack([real.contiguous(memory_format=torch.channels_last) for real in feeds['real']])

    def update(optimizer, scaler, loss):
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    def step(i):
        z_d, z_g = (feeds[name][i][:, :, None, None] for name in ('zD', 'zG'))
        with setting.autocast():
            with torch.no_grad():
                made = G(z_d)
            # in the order real, fake: each pass moves the power iterations
            loss_d = F.relu(1 - D(feeds['real'][i])).mean()
            loss_d = loss_d + F.relu(1 + D(made)).mean()
        update(opt_d, scaler_d, loss_d)
        for p in D.parameters():
            p.requires_grad_(False)
        with setting.autocast():
            loss_g = -D(G(z_g)).mean()
        update(opt_g, scaler_g, loss_g)
        for p in D.parameters():
            p.requires_grad_(True)
        return loss_d.detach(), loss_g.detach()

    def outputs():
        found = [step(i) for i in range(LOSS_STEPS)]
        return dict(lossD=torch.stack([d for d, _ in found]), lossG=torch.stack([g for _, g in found]))

    return lambda: step(0), outputs


def prepare_op(setting, case, values):
    work, backward = case['work'], case['backward']
    inputs = {name: setting.tensor(value).requires_grad_(backward and name != 'dy') for name, value in values.items()}
    if work['op'] == 'attention':
        block = SelfAttention(inputs['x'].shape[1])
        load(block, values, '')
        block.to(setting.device, setting.dtype).requires_grad_(backward)
        inputs.update(block.named_parameters())
    forward = dict(
        matmul=lambda: inputs['a'] @ inputs['b'],
        softmax=lambda: torch.softmax(inputs['x'], -1),
        conv2d=lambda: F.conv2d(inputs['x'], inputs['w'], None, work['stride'], work['padding']),
        convTranspose2d=lambda: F.conv_transpose2d(inputs['x'], inputs['w'], None, work['stride'], work['padding']),
        attention=lambda: block(inputs['x']),
    )[work['op']]
    wanted = [name for name in inputs if name != 'dy'] if backward else []

    def run():
        with setting.autocast(), torch.set_grad_enabled(backward):
            y = forward()
        if not backward:
            return dict(y=y)
        found = torch.autograd.grad(y, [inputs[name] for name in wanted], inputs['dy'].to(y.dtype))
        return dict(y=y, **{f'd.{name}': g for name, g in zip(wanted, found)})

    return run, run


def serve(task):
    setting = Setting(task['setting']['name'])
    values, metadata = read_safetensors(task['file'])
    case = json.loads(metadata['case'])
    gan = case['work']['op'] == 'gan'
    run, outputs = prepare_gan(setting, case['work']['spec'], values) if gan else prepare_op(setting, case, values)

    def timed(times):
        start = time.perf_counter()
        for _ in range(times):
            run()
        setting.sync()
        return (time.perf_counter() - start) * 1000

    write_safetensors(task['out'], outputs())
    setting.sync()
    once = [timed(1) for _ in range(WARM_UPS + 1)][-1]
    reply(dict(ready=True, version=torch.__version__, onceMs=once))
    for line in sys.stdin:
        request = json.loads(line)
        start = time.process_time()
        ms = [timed(request['times']) / request['times'] for _ in range(request['samples'])]
        reply(dict(ms=ms, cpuMs=(time.process_time() - start) * 1000, peakMiB=peak_mib(setting)))


def peak_mib(setting):
    if setting.device.type == 'cuda':
        return torch.cuda.max_memory_allocated() / 2 ** 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reply(message):
    os.write(3, (json.dumps(message) + '\n').encode())


if __name__ == '__main__':
    if sys.argv[1] == '--probe':
        print(json.dumps(probe()))
    else:
        try:
            serve(json.loads(sys.argv[1]))
        except Exception as error:
            reply(dict(error=f'{type(error).__name__}: {error}'))
            raise
