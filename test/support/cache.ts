import { existsSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDir } from '../../src/gpu/platform.ts';

/** A cache folder of a test's own below `folder`, with nothing in it but the drivers and the compiled kernels: the environment of it. */
export function freshCache(folder: string): { readonly XDG_CACHE_HOME: string } {
  const cache = join(folder, 'cache');
  mkdirSync(join(cache, 'wgsagan'), { recursive: true });
  for (const name of ['drivers', 'shaders']) {
    const shared = join(cacheDir(), name);
    if (existsSync(shared)) symlinkSync(shared, join(cache, 'wgsagan', name));
  }
  return { XDG_CACHE_HOME: cache };
}
