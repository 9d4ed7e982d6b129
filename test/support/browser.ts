// A real Chromium for tests of pages: the system's, since playwright-core brings none.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect } from 'vitest';

const places = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const executablePath = places.find((path) => existsSync(path));

/** Is there a browser? Says how to get one where there is none. */
export const hasBrowser = executablePath !== undefined;
if (!hasBrowser) {
  process.stderr.write('the pages are NOT tested: no Chromium (apt-get install chromium)\n');
}

const args = [
  ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
];

export interface PageOptions {
  readonly width?: number;
  readonly dark?: boolean;
  readonly still?: boolean;
}

/**
 * Opens pages of one browser for the tests of a describe. After each page `complaints` holds what went wrong in it: errors,
 * and whatever was printed to its console.
 */
export function useBrowser() {
  let browser: Browser | undefined;
  const complaints: string[] = [];
  beforeAll(async () => {
    if (executablePath !== undefined) browser = await chromium.launch({ executablePath, args });
  });
  afterAll(async () => {
    await browser?.close();
  });
  return {
    complaints,
    open: async (url: string, { width = 1600, dark = false, still = false }: PageOptions = {}) => {
      expect(browser).toBeDefined();
      const page: Page = await browser!.newPage({
        viewport: { width, height: 900 },
        colorScheme: dark ? 'dark' : 'light',
        reducedMotion: still ? 'reduce' : 'no-preference',
      });
      complaints.length = 0;
      page.on('console', (message) => complaints.push(message.text()));
      page.on('pageerror', (error) => complaints.push(error.message));
      await page.goto(url);
      return page;
    },
  };
}

/** What runs in the page is text here: the tests know no types of a page. */
const countPixels = `(canvas) => {
  const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const words = new Uint32Array(copy.getImageData(0, 0, width, height).data.buffer);
  const counts = new Map();
  let hash = 0;
  for (const word of words) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
    hash = (Math.imul(hash, 31) + word) | 0;
  }
  return { drawn: words.length - Math.max(...counts.values()), colours: counts.size, hash };
}`;

/** How many pixels of a canvas are not of its most frequent colour, how many colours it has, and all of it as a number. */
export function pixelsOf(page: Page, selector: string, nth = 0) {
  type Pixels = { readonly drawn: number; readonly colours: number; readonly hash: number };
  const canvas = `document.querySelectorAll(${JSON.stringify(selector)})[${nth}]`;
  return page.evaluate<Pixels>(`(${countPixels})(${canvas})`);
}

/** Pixels that a page is wider than its window. */
export function overflowOf(page: Page): Promise<number> {
  return page.evaluate<number>('document.documentElement.scrollWidth - innerWidth');
}
