// Makes docs/images/report.png, the picture of a run's report: trains the smallest preset for a minute, then opens the page
// that the run left in Chromium.
//   node scripts/screenshot.mjs [--run DIR]        DIR: a run that is there already
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { SetupError, writeWhole } from './lib/process.mjs';
import { root, runCli } from './lib/source.mjs';
import { runScript } from './setup.mjs';

const executablePath = '/usr/bin/chromium';
const training = [
  ...['train', '--data', 'avatars:thumbs', '--preset', 'sagan-32-tiny', '--seed', '0'],
  ...['--steps', '600', '--sample-every', '50'],
];

async function main() {
  if (!existsSync(executablePath)) throw new SetupError('no Chromium: apt-get install chromium');
  const { values } = parseArgs({ options: { run: { type: 'string' } } });
  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-screenshot-'));
  try {
    const run = values.run ?? join(folder, 'demo');
    if (values.run === undefined) {
      const code = await runCli([...training, '--out', run]);
      if (code !== 0) return code;
    }
    const page = await pictureOf(pathToFileURL(join(run, 'report.html')).href);
    const png = await sharp(page).png({ palette: true, quality: 90 }).toBuffer();
    await writeWhole(join(root, 'docs', 'images', 'report.png'), png);
    return 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function pictureOf(url) {
  const { chromium } = await import('playwright-core');
  const args = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'];
  const browser = await chromium.launch({ executablePath, args });
  try {
    const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
    await page.goto(url);
    // Curves are drawn in the frame after the page is there.
    await page.locator('.plot canvas').first().waitFor();
    await page.evaluate('new Promise(requestAnimationFrame)');
    return await page.screenshot({ fullPage: true });
  } finally {
    await browser.close();
  }
}

await runScript(main);
