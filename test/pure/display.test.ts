import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { TrainDisplay } from '../../src/cli/display.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { shellQuote } from '../../src/util/quote.ts';

let now = 0;
let printed = '';

beforeEach(() => {
  [now, printed] = [0, ''];
  vi.spyOn(performance, 'now').mockImplementation(() => now);
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += String(text);
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
});

const ready = {
  firstStep: 100,
  launches: 1,
  gflopPerStep: 1,
  plannedBytes: 0,
  unplannedBytes: 0,
  residentBytes: 0,
  parameters: {},
  shown: { lossD: 'D', lossG: 'G' },
  operations: 0,
  tuned: 0,
  otherKernels: false,
};

test('a log tells the steps where no line of metrics comes', () => {
  const config = resolveConfig({ data: 'avatars', steps: 200, logEvery: 1000 });
  const display = new TrainDisplay(config);
  display.onReady(ready);
  printed = '';
  for (let step = 101; step <= 125; step++) {
    now += 1000;
    display.onStep(step);
  }
  expect(printed).toBe('step 110/200  2 min left\nstep 120/200  80 s left\n');
});

test('a log tells losses and speed where there are metrics', () => {
  const display = new TrainDisplay(resolveConfig({ data: 'avatars', steps: 200 }));
  display.onReady(ready);
  const line = { step: 105, lossD: 1.5, lossG: -0.25, dReal: 0, dFake: 0, seconds: 5 };
  display.onMetrics({ ...line, imagesPerSecond: 64 });
  now = 10_000;
  printed = '';
  display.onStep(110);
  expect(printed).toBe('step 110/200  D 1.500 G -0.250  64 images/s  2 min left\n');
});

test('nothing is printed once nobody reads', () => {
  const display = new TrainDisplay(resolveConfig({ data: 'avatars' }));
  process.stdout.emit('error', new Error('write EPIPE'));
  display.log('unheard');
  expect(printed).toBe('');
});

test.each([
  ['runs/demo-1', 'runs/demo-1'],
  ['größe.2/ü', 'größe.2/ü'],
  ['my run é', "'my run é'"],
  ["it's", String.raw`'it'\''s'`],
  ['$HOME/*', "'$HOME/*'"],
  ['~/run', "'~/run'"],
  ['', "''"],
])('%s is typed in a shell as %s', (word, quoted) => {
  expect(shellQuote(word)).toBe(quoted);
});
