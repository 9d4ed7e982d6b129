// The dashboard in a real browser, over synthetic run folders.
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DashboardServer } from '../../src/report/server.ts';
import type { Dashboard } from '../../src/report/server.ts';
import { hasBrowser, overflowOf, pixelsOf, useBrowser } from '../support/browser.ts';
import { metricLine, writeAttentionMaps, writeRun } from '../support/runs.ts';

describe.skipIf(!hasBrowser)('dashboard', () => {
  const { open, complaints } = useBrowser();
  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-browser-'));
  let dashboard: Dashboard;
  let newest = '';
  beforeAll(async () => {
    writeRun(folder, 'one', { lines: 20 });
    writeRun(folder, 'two', { lines: 30, shift: 1 });
    newest = writeRun(folder, 'zero', { lines: 40, shift: 2, attention: true });
    appendFileSync(join(newest, 'metrics.jsonl'), `${JSON.stringify(metricLine(410, 2))}\n`);
    dashboard = await DashboardServer.open([folder], 0);
  });
  afterAll(async () => {
    await dashboard.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test('shows the newest run, and what is added to it as it comes', async () => {
    const page = await open(dashboard.url);
    await page.locator('[data-chart="Losses"] canvas').waitFor();
    expect(await page.textContent('h1 >> nth=1')).toBe('zero');
    expect(await page.locator('.runs .name').allTextContents()).toEqual(['one', 'two', 'zero']);
    await expect.poll(() => page.textContent('.attention output')).toContain('of 16×16');
    const look = async () => (await pixelsOf(page, '[data-chart="Losses"] canvas')).hash;
    const before = await look();
    appendFileSync(join(newest, 'metrics.jsonl'), `${JSON.stringify(metricLine(700, 2))}\n`);
    await expect.poll(() => page.textContent('.figures'), { timeout: 5000 }).toContain('700');
    expect(await look()).not.toBe(before);
    writeAttentionMaps(newest, 900);
    const when = () => page.textContent('.attention .cardhead .note');
    await expect.poll(when, { timeout: 5000 }).toBe('step 900');
    expect(complaints).toEqual([]);
    await page.close();
  });

  test('runs that are chosen by keyboard are drawn over each other and stand side by side', async () => {
    const page = await open(dashboard.url);
    const second = page.getByLabel('one', { exact: false }).first();
    await second.focus();
    await page.keyboard.press('Space');
    await page.locator('[data-chart="Losses: lossD"] canvas').waitFor();
    const legend = await page.locator('[data-chart="Losses: lossD"] .legend').textContent();
    expect(legend).toMatch(/one.*zero/);
    expect((await pixelsOf(page, '[data-chart="Losses: lossD"] canvas')).drawn).toBeGreaterThan(
      500,
    );
    const pictures = page.locator('.sides img');
    expect(await pictures.count()).toBe(2);
    const sources = () => pictures.evaluateAll((all) => all.map((one) => one.getAttribute('src')));
    const last = await sources();
    await page.getByLabel('Step of all pictures').focus();
    await page.keyboard.press('Home');
    expect(await sources()).not.toEqual(last);
    const widths = await page.evaluate(
      `Promise.all([...document.querySelectorAll('.sides img')].map((one) => one.decode().then(() => one.naturalWidth)))`,
    );
    expect(widths).toEqual([64, 64]);
    expect(complaints).toEqual([]);
    const chosen = page.url();
    await page.close();
    // The address keeps the choice.
    const again = await open(chosen, { width: 400, dark: true });
    await again.locator('.sides img').nth(1).waitFor();
    expect(await overflowOf(again)).toBeLessThanOrEqual(0);
    expect(complaints).toEqual([]);
    await again.close();
  });

  test('a new run shows by itself, on the pages of all who look', async () => {
    const pages = [await open(dashboard.url), await open(dashboard.url)];
    for (const page of pages) await page.locator('.runs li').nth(2).waitFor();
    writeRun(folder, 'later', { lines: 5 });
    for (const page of pages) {
      await page.locator('.runs .name', { hasText: 'later' }).waitFor({ timeout: 5000 });
      await page.close();
    }
  });
});
