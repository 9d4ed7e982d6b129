// The collapse alarm on made-up metrics: what each cause looks like, what it says, and that it says it once.
import { describe, expect, test } from 'vitest';
import type { MetricLine } from '../../src/train/run-folder.ts';
import { Watch } from '../../src/train/watch.ts';
import { uniform } from '../support/random.ts';

const hinge: Config = { loss: 'hinge', labelSmoothing: 0 };
const healthy: Record<string, number> = {
  ...{ lossD: 1.4, lossG: 0.3, dReal: 0.4, dFake: -0.3, diversity: 0.9, lossScaleG: 65536 },
  ...{ 'gradNorm/G': 2, 'gradNorm/D': 1, 'gamma/generator.main.6': 0.2 },
  ...{ 'sigma/discriminator.main.0': 1.5, 'sigma/generator.main.3': 1.7 },
};
type Config = ConstructorParameters<typeof Watch>[0];
type Values = Readonly<Record<string, number>>;

/** A run of so many lines: what is healthy, a fifth up and down, but for what `at` says of a line. */
function run(n: number, at: (i: number) => Values = () => ({})): MetricLine[] {
  const next = uniform(5);
  return Array.from({ length: n }, (_u, i) => {
    const noisy = Object.entries({ ...healthy, ...at(i) }).map(([name, v]) => [
      name,
      v * (0.8 + 0.4 * next()),
    ]);
    const values = Object.fromEntries(noisy) as Record<string, number>;
    return { ...values, step: 10 * (i + 1), imagesPerSecond: 100, seconds: i };
  });
}

/** Healthy for 30 lines, then moving towards `end` in 10 and staying there. */
const towards = (end: Values, lines = 50) =>
  run(lines, (i) =>
    Object.fromEntries(
      Object.entries(end).map(([name, v]) => {
        const share = Math.min(1, Math.max(0, (i - 30) / 10));
        return [name, (1 - share) * (healthy[name] ?? 1) + share * v];
      }),
    ),
  );

/** All that a run tells, line by line. */
function told(lines: readonly MetricLine[], config: Config = hinge) {
  const keeper = new Watch(config, []);
  return lines.flatMap((_line, i) => keeper.look(lines.slice(0, i + 1)));
}

describe('a run that goes well', () => {
  test('raises nothing', () => {
    expect(told(run(300))).toEqual([]);
  });

  test('may begin in any way', () => {
    const odd = { diversity: 0.01, lossD: 0, dReal: 9, dFake: -9, 'gradNorm/D': 0 };
    expect(told(run(9, () => odd))).toEqual([]);
    expect(told(run(100, (i) => (i < 5 ? { diversity: 0.02, 'gradNorm/G': 90 } : {})))).toEqual([]);
  });

  test('may be of any metrics', () => {
    const lines = Array.from({ length: 90 }, (_u, i) => ({
      ...{ step: i + 1, loss: 1200, kl: 3, imagesPerSecond: 9, seconds: i },
    }));
    expect(told(lines)).toEqual([]);
  });
});

describe('what goes wrong', () => {
  test.each<[string, Values, string, RegExp]>([
    [
      'mode collapse',
      { diversity: 0.01 },
      'diversity',
      /0\.1\d+ times as far .* few images .*--lr-g/,
    ],
    [
      'a sure discriminator',
      { lossD: 0, dReal: 5, dFake: -4 },
      'saturation',
      /sure of every image \(hinge loss 0\.0\d+, D\(real\) .*--lr-d/,
    ],
    [
      'gamma',
      { 'gamma/generator.main.6': -40 },
      'gamma/generator.main.6',
      /generator\.main\.6 is -/,
    ],
    [
      'a weight that grows',
      { 'sigma/generator.main.3': 90 },
      'sigma/generator.main.3',
      /generator\.main\.3 has a spectral norm of \d+, 1\.\d+ at first/,
    ],
    [
      'a weight that shrinks',
      { 'sigma/generator.main.3': 0.01 },
      'sigma/generator.main.3',
      /shrunk/,
    ],
    [
      'a gradient that vanishes',
      { 'gradNorm/G': 1e-5 },
      'vanishing/G',
      /gradient of G has all but vanished/,
    ],
    ['one that is 0', { 'gradNorm/D': 0 }, 'vanishing/D', /gradient of D has all but vanished: 0,/],
    ['one that explodes', { 'gradNorm/D': 1e4 }, 'exploding/D', /gradient of D explodes.*--lr-d/],
    [
      'a loss scale that falls',
      { lossScaleG: 0.01 },
      'lossScaleG',
      /loss scale of G.*--precision f32/,
    ],
  ])('%s', (_name, end, cause, text) => {
    const alarms = told(towards(end));
    expect(alarms.map((one) => one.cause)).toEqual([cause]);
    expect(alarms[0]!.text).toMatch(text);
    expect(alarms[0]!.step).toBeGreaterThan(300);
    expect(alarms[0]!.text.length).toBeLessThan(300);
  });

  test('a generator that never begins to differ', () => {
    const alarms = told(run(80, () => ({ diversity: 0.02 })));
    expect(alarms.map(({ cause, step }) => ({ cause, step }))).toEqual([
      { cause: 'diversity', step: 500 },
    ]);
  });

  test.each<[Config, Values]>([
    [
      { loss: 'bce', labelSmoothing: 0 },
      { lossD: 0.001, dReal: 9, dFake: -9 },
    ],
    // −0.9·ln 0.9 − 0.1·ln 0.1, the least that smoothed labels allow
    [
      { loss: 'bce', labelSmoothing: 0.1 },
      { lossD: 0.325, dReal: 2.2, dFake: -9 },
    ],
    [
      { loss: 'bce-minimax', labelSmoothing: 0 },
      { lossD: 0.001, dReal: 9, dFake: -9 },
    ],
    [
      { loss: 'lsgan', labelSmoothing: 0 },
      { lossD: 0.001, dReal: 1, dFake: 0.01 },
    ],
    [
      { loss: 'wasserstein', labelSmoothing: 0 },
      { lossD: -900, dReal: 500, dFake: -400 },
    ],
  ])('saturation of %j', (config, end) => {
    const ofLoss = run(50, (i) => (i < 30 ? { lossD: 1 } : end));
    const alarms = told(ofLoss, config).filter(({ cause }) => cause === 'saturation');
    expect(alarms).toHaveLength(1);
    const without = run(50, () => ({ lossD: config.loss === 'lsgan' ? 0.4 : 1 }));
    expect(told(without, config)).toEqual([]);
  });
});

describe('a cause is told', () => {
  const gone = (i: number) => (i >= 30 && i < 40) || i >= 70;

  test('once, and again where it had gone', () => {
    const lines = run(100, (i) => (gone(i) ? { diversity: 0.01 } : {}));
    const steps = told(lines).map(({ step }) => step);
    expect(steps).toHaveLength(2);
    expect(steps[0]).toBeLessThan(400);
    expect(steps[1]).toBeGreaterThan(700);
  });

  test('no second time by a run that goes on', () => {
    const lines = towards({ diversity: 0.01 }, 60);
    for (const stopped of [45, 50]) {
      const keeper = new Watch(hinge, lines.slice(0, stopped));
      const more = lines
        .slice(stopped)
        .flatMap((_l, i) => keeper.look(lines.slice(0, stopped + i + 1)));
      expect(more).toEqual([]);
    }
  });
});
