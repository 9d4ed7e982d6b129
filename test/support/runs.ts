// Run folders as training leaves them, made without a GPU.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeApng } from '../../src/io/apng.ts';
import { encodePng } from '../../src/io/png.ts';
import type { Picture } from '../../src/io/png.ts';

export interface RunOptions {
  readonly steps?: number;
  /** Lines of metrics, one every ten steps. */
  readonly lines?: number;
  readonly grids?: number;
  readonly attention?: boolean;
  readonly clips?: boolean;
  readonly alarms?: boolean;
  /** Moves every curve. */
  readonly shift?: number;
}

/** One line of metrics.jsonl with a key of each family. */
export function metricLine(step: number, shift = 0): Record<string, number> {
  const t = step / 100;
  const wave = (rate: number, size: number) => size * Math.sin(rate * t + shift);
  const layers = ['main.0', 'main.3', 'main.6', 'main.9', 'last'];
  return {
    step,
    lossD: 1.2 + wave(1, 0.3) + wave(23, 0.1),
    lossG: 0.6 - wave(0.7, 0.5) + wave(31, 0.1),
    dReal: 0.8 + wave(0.5, 0.2),
    dFake: -0.8 + wave(0.6, 0.2),
    'gradNorm/G': Math.exp(wave(0.4, 1)),
    'gradNorm/D': Math.exp(1 + wave(0.3, 1)),
    'lr/G': 1e-4,
    'lr/D': 4e-4,
    'gamma/generator.main.6': 0.2 * t,
    'gamma/discriminator.main.4': 0.1 * t,
    ...Object.fromEntries(
      layers.map((name, i) => [`sigma/discriminator.${name}`, 1 + i + wave(0.2, 0.3)]),
    ),
    diversity: 0.4 + wave(0.1, 0.1),
    wait: 0.01 + Math.abs(wave(3, 0.005)),
    imagesPerSecond: 240 + wave(2, 20),
    seconds: step / 20,
  };
}

/** Writes a run folder. Returns its path. */
export function writeRun(parent: string, name: string, options: RunOptions = {}): string {
  const { steps = 2000, lines = 100, grids = 5, shift = 0 } = options;
  const run = join(parent, name);
  mkdirSync(join(run, 'samples'), { recursive: true });
  const config = ['data: avatars:thumbs', 'preset: sagan-32-tiny', `steps: ${steps}`, 'batch: 16'];
  writeFileSync(join(run, 'config.yaml'), `# options\n${config.join('\n')}\n`);
  const machine = { adapter: 'llvmpipe (software)', driver: 'lavapipe 25.0.7', node: '20.20.2' };
  writeFileSync(join(run, 'machine.json'), JSON.stringify(machine));
  writeLines(
    join(run, 'metrics.jsonl'),
    series(lines, (i) => metricLine(10 * (i + 1), shift)),
  );
  const evaluation = (i: number) => ({
    ...{ step: 200 * (i + 1), extractor: 'own classifier', weights: 'ab12', n: 512, real: 512 },
    ...{ fd: 90 / (i + 1) + shift, kid: 0.1 / (i + 1), kidStd: 0.01, precision: 0.5, recall: 0.3 },
  });
  writeLines(join(run, 'eval.jsonl'), series(4, evaluation));
  if (options.alarms === true) {
    const text = 'the discriminator tells all images apart: lower --lr-d';
    writeLines(join(run, 'alarms.jsonl'), [{ step: 640, cause: 'saturation', text }]);
  }
  for (let i = 0; i < grids; i++) {
    const file = `step-${String(200 * (i + 1)).padStart(7, '0')}`;
    writeFileSync(join(run, 'samples', `${file}.png`), pngOf(painted(64, 40 * i + shift)));
    if (options.clips !== true) continue;
    const frames = series(4, (t) => painted(64, 40 * i + 10 * t));
    writeFileSync(join(run, 'samples', `${file}.apng`), encodeApng(frames, { delayMs: 100 }));
  }
  if (options.attention === true) writeAttentionMaps(run, 800);
  return run;
}

/** Writes RUN/attention/step-….json of two layers: each point looks at its mirror image. */
export function writeAttentionMaps(run: string, step: number): void {
  const samples = 3;
  const layer = (name: string, heads: number, side: number, of: number) => {
    const maps = new Uint8Array(samples * heads * side ** 2 * of ** 2);
    for (let row = 0; row < samples * heads * side ** 2; row++) {
      const query = row % side ** 2;
      const y = ((side - 1 - Math.floor(query / side)) * of) / side;
      const x = ((side - 1 - (query % side)) * of) / side;
      for (let key = 0; key < of ** 2; key++) {
        const far = (Math.floor(key / of) - Math.floor(y)) ** 2 + ((key % of) - Math.floor(x)) ** 2;
        maps[row * of ** 2 + key] = Math.round(255 * Math.exp(-far / 3));
      }
    }
    const [queries, keys] = [
      [side, side],
      [of, of],
    ];
    return { name, heads, queries, keys, maps: Buffer.from(maps).toString('base64') };
  };
  const images = series(samples, (i) => pngOf(painted(32, 80 * i)).toString('base64'));
  const layers = [layer('main.6', 2, 8, 4), layer('main.9', 1, 16, 8)];
  mkdirSync(join(run, 'attention'), { recursive: true });
  const path = join(run, 'attention', `step-${String(step).padStart(7, '0')}.json`);
  writeFileSync(path, JSON.stringify({ step, imageSize: 32, samples, images, layers }));
}

function series<T>(n: number, make: (i: number) => T): T[] {
  return Array.from({ length: n }, (_u, i) => make(i));
}

function writeLines(path: string, lines: readonly object[]): void {
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
}

/** A colour wheel that turns with `shift`. */
function painted(side: number, shift: number): Picture {
  const pixels = new Uint8Array(3 * side * side);
  for (let i = 0; i < side * side; i++) {
    const [y, x] = [Math.floor(i / side), i % side];
    pixels.set(
      [(8 * x + shift) % 256, (8 * y + shift) % 256, (4 * (x + y) + 2 * shift) % 256],
      3 * i,
    );
  }
  return { pixels, width: side, height: side, channels: 3 };
}

function pngOf(picture: Picture): Buffer {
  return Buffer.from(encodePng(picture.pixels, picture));
}
