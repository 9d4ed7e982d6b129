// SwiftShader, Google's software Vulkan driver, out of an npm package that carries it for headless Chromium.
// It needs nothing but libc, but is some seven times slower than lavapipe: second choice.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { SetupError, complaint, megabytes, runNpm, withProgress } from './process.mjs';
import { readTar } from './tar.mjs';

const NAME = '@sparticuz/chromium';
const VERSION = '153.0.0';
const BYTES = 69_995_309;
const SHA512 =
  'jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA==';
const DRIVER = 'libvk_swiftshader.so';
const LOADER = 'libvulkan.so.1';

/** Downloads SwiftShader into `staging` and leaves a driver folder there; the same result as `fetchLavapipe`. */
export async function fetchSwiftshader({ staging, say }) {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new SetupError(
      `SwiftShader is carried for Linux on x64 only, not ${process.platform} on ${process.arch}`,
    );
  }
  say(`downloading SwiftShader in ${NAME} ${VERSION}: ${megabytes(BYTES)}`);
  const downloads = join(staging, 'npm');
  mkdirSync(downloads);
  // A cache of its own: the 70 MB are worth nothing to the user's once the driver is out.
  const cache = ['--cache', join(staging, 'npm-cache'), '--loglevel=error'];
  const pack = runNpm(['pack', `${NAME}@${VERSION}`, '--pack-destination', downloads, ...cache], {
    cwd: downloads,
  });
  const result = await withProgress(staging, pack, (got) => {
    say(`  ${megabytes(Math.min(got, BYTES))} of ${megabytes(BYTES)}`);
  });
  if (result.code !== 0) throw new SetupError(`npm pack ${NAME}: ${complaint(result.stderr)}`);

  const tarball = readdirSync(downloads).find((name) => name.endsWith('.tgz'));
  const bytes = readFileSync(join(downloads, tarball));
  if (createHash('sha512').update(bytes).digest('base64') !== SHA512) {
    throw new SetupError(`${tarball} is not the file that this version of wgsagan was made with`);
  }
  const inner = readTar(gunzipSync(bytes)).find(({ name }) => name.endsWith('/swiftshader.tar.br'));
  const files = new Map(readTar(brotliDecompressSync(inner.data)).map((file) => [file.name, file]));
  const folder = join(staging, 'driver');
  mkdirSync(folder);
  for (const name of [DRIVER, LOADER]) {
    writeFileSync(join(folder, name), files.get(name).data, { mode: 0o755 });
  }
  return { folder, version: VERSION, libraries: [LOADER], driver: DRIVER, bytes: bytes.length };
}
