// The page of a run in a real browser, from synthetic run folders.
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ReportWriter } from '../../src/report/report.ts';
import { hasBrowser, overflowOf, pixelsOf, useBrowser } from '../support/browser.ts';
import { writeRun } from '../support/runs.ts';

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-browser-'));
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

async function reportOf(run: string): Promise<string> {
  await new ReportWriter(run).write();
  return pathToFileURL(join(run, 'report.html')).href;
}

describe.skipIf(!hasBrowser)('report.html', () => {
  const { open, complaints } = useBrowser();
  let url = '';
  beforeAll(async () => {
    const run = writeRun(folder, 'full', { attention: true, alarms: true });
    appendFileSync(join(run, 'metrics.jsonl'), '{"step":1010,"lossD":1.');
    url = await reportOf(run);
  });

  test.each([
    { width: 1600, dark: false },
    { width: 400, dark: true },
  ])('draws every family of curves, $width pixels wide, dark: $dark', async (options) => {
    const page = await open(url, options);
    const titles = await page.locator('[data-chart] h3').allTextContents();
    const wanted = ['Losses', 'D(real)', 'Fréchet', 'Kernel', 'Precision', 'diversity'];
    const inside = ['Gradient', 'gamma', 'Spectral', 'Learning', 'Speed', 'Wait'];
    for (const word of [...wanted, ...inside]) expect(titles.join()).toContain(word);
    const charts = await page.locator('.plot canvas').count();
    expect(charts).toBe(titles.length);
    for (let i = 0; i < charts; i++) {
      const { drawn, colours } = await pixelsOf(page, '.plot canvas', i);
      expect(drawn, titles[i]).toBeGreaterThan(500);
      expect(colours, titles[i]).toBeGreaterThan(5);
    }
    expect(await overflowOf(page)).toBeLessThanOrEqual(0);
    const paper = await page.evaluate('getComputedStyle(document.body).backgroundColor');
    expect(paper).toBe(options.dark ? 'rgb(18, 20, 22)' : 'rgb(247, 247, 245)');
    expect(complaints).toEqual([]);
    await page.close();
  });

  test('shows where the run stands, its alarms, options and machine', async () => {
    const page = await open(url);
    expect(await page.textContent('.runhead')).toMatch(/full.*as written.*1\s000 \/ 2\s000/s);
    expect(await page.textContent('.alarms')).toContain('tells all images apart');
    const facts = (await page.locator('.facts').allTextContents()).join();
    for (const text of ['sagan-32-tiny', 'lavapipe 25.0.7']) expect(facts).toContain(text);
    await page.close();
  });

  test('the slider goes through the grids by the arrow keys, and Play from the first to the last', async () => {
    const page = await open(url);
    const slider = page.getByLabel('Step of the pictures');
    const source = () => page.getAttribute('.pictures img', 'src');
    const last = await source();
    expect(last).toMatch(/^data:image\/png;base64,/);
    await slider.focus();
    await page.keyboard.press('ArrowLeft');
    expect(await source()).not.toBe(last);
    expect(await slider.getAttribute('aria-valuetext')).toBe('step 800');
    await page.keyboard.press('Home');
    expect(await page.textContent('.pictures output')).toContain('step 200');
    await page.getByRole('button', { name: 'Play' }).click();
    await page.getByRole('button', { name: 'Play' }).waitFor();
    expect(await source()).toBe(last);
    await page.close();
  });

  test('a click on a sample, the arrow keys and another sample show other maps', async () => {
    const page = await open(url);
    const said = page.locator('.attention output');
    const maps = async () => (await pixelsOf(page, '.maps canvas', 2)).hash;
    await expect.poll(() => said.textContent()).toBe('Row 9, column 9 of 16×16');
    expect(await page.locator('.maps figcaption').allTextContents()).toEqual([
      'main.6, head 1',
      'main.6, head 2',
      'main.9',
    ]);
    const seen = [await maps()];
    await page.click('canvas.point', { position: { x: 30, y: 310 } });
    expect(await said.textContent()).toBe('Row 16, column 2 of 16×16');
    seen.push(await maps());
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('ArrowRight');
    expect(await said.textContent()).toBe('Row 15, column 3 of 16×16');
    seen.push(await maps());
    await page.getByLabel('Sample 2', { exact: true }).click();
    seen.push(await maps());
    expect(new Set(seen).size).toBe(4);
    // Points look at their mirror images: keys are half as many a side.
    expect(await page.getAttribute('canvas.point', 'aria-label')).toContain(
      'main.9: row 1, column',
    );
    await page.close();
  });

  test('a chart tells values by keyboard, hides a curve, and changes its scale; smoothing changes it', async () => {
    const page = await open(url);
    const chart = page.locator('[data-chart="Losses"]');
    const look = async () => (await pixelsOf(page, '[data-chart="Losses"] canvas')).hash;
    const seen = [await look()];
    await chart.locator('.plot').focus();
    await page.keyboard.press('Home');
    await page.keyboard.press('ArrowRight');
    expect(await chart.locator('output').textContent()).toMatch(/^step 20: lossD [\d.]+, lossG/);
    expect(await chart.locator('.where').textContent()).toBe('step 20');
    await page.getByLabel('Logarithmic scale of Losses').click();
    seen.push(await look());
    await chart.getByRole('button', { name: 'lossG' }).click();
    seen.push(await look());
    await page.getByLabel('Smoothing').focus();
    await page.keyboard.press('Home');
    seen.push(await look());
    expect(new Set(seen).size).toBe(4);
    expect(complaints).toEqual([]);
    await page.close();
  });

  test('where the keyboard is can be seen', async () => {
    const page = await open(url);
    await page.keyboard.press('Tab');
    const outline = await page.evaluate('getComputedStyle(document.activeElement).outlineStyle');
    expect(outline).toBe('solid');
    await page.close();
  });

  test('clips move, unless the reader wants nothing to', async () => {
    const clips = await reportOf(writeRun(folder, 'clips', { clips: true }));
    for (const still of [false, true]) {
      const page = await open(clips, { still });
      const pressed = page.locator('.tabs [aria-pressed="true"]');
      expect(await pressed.textContent()).toBe(still ? 'Samples' : 'Clips');
      await page.close();
    }
  });

  test('a run of sequences, and one with nothing but options, have pages too', async () => {
    const seq = join(folder, 'seq');
    mkdirSync(seq);
    writeFileSync(join(seq, 'config.yaml'), 'task: reverse\nsteps: 100\n');
    const lines = ['{"step":10,"loss":2,"lr":0.001,"pairsPerSecond":9,"seconds":1}'];
    lines.push('{"step":10,"exact":0.5,"seconds":1}', '{"step":20,"loss":null,"seconds":2}');
    writeFileSync(join(seq, 'metrics.jsonl'), `${lines.join('\n')}\n`);
    const page = await open(await reportOf(seq));
    const titles = (await page.locator('[data-chart] h3').allTextContents()).join();
    for (const word of ['Losses', 'exact', 'Learning', 'Speed']) expect(titles).toContain(word);
    expect(complaints).toEqual([]);
    await page.close();
    const bare = join(folder, 'bare');
    mkdirSync(bare);
    writeFileSync(join(bare, 'config.yaml'), 'preset: sagan-32\n');
    mkdirSync(join(bare, 'attention'));
    writeFileSync(join(bare, 'attention', 'step-0000001.json'), '{"step":1');
    const other = await open(await reportOf(bare));
    expect(await other.textContent('.facts')).toContain('sagan-32');
    expect(await other.textContent('.alarms')).toContain('attention/step-0000001.json');
    expect(complaints).toEqual([]);
    await other.close();
  });

  test('what a run is called and says is text, never part of the page', async () => {
    const run = writeRun(folder, '<img src=x onerror=alert(1)>', { lines: 3 });
    const text = '</script><script>document.title = "taken"</script><!--';
    appendFileSync(join(run, 'alarms.jsonl'), `${JSON.stringify({ step: 1, cause: 'x', text })}\n`);
    const page = await open(await reportOf(run));
    expect(await page.title()).toBe('<img src=x onerror=alert(1)> · wgsagan');
    expect(await page.textContent('.alarms')).toContain(text);
    expect(complaints).toEqual([]);
    await page.close();
  });
});
