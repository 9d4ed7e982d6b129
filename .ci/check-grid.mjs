// Looks at a sample grid by statistics: `node .ci/check-grid.mjs grid.png [image size]`. Exit code 1 where it is noise.
import { readFileSync } from 'node:fs';
import { PNG } from 'pngjs';

const [file, sizeText = '32'] = process.argv.slice(2);
const size = Number(sizeText);
const padding = 2;
const { data, width, height } = PNG.sync.read(readFileSync(file));

/** Correlation of neighbouring pixels inside the tiles: about 0 for noise, above 0.8 for drawings; and mean contrast. */
const pairs = { n: 0, a: 0, b: 0, aa: 0, bb: 0, ab: 0 };
let contrast = 0;
let tiles = 0;
for (let top = padding; top + size <= height; top += size + padding) {
  for (let left = padding; left + size <= width; left += size + padding) {
    let [sum, squares] = [0, 0];
    for (let y = top; y < top + size; y++) {
      for (let x = left; x < left + size; x++) {
        for (let c = 0; c < 3; c++) {
          const a = data[4 * (y * width + x) + c];
          sum += a;
          squares += a * a;
          if (x + 1 === left + size) continue;
          const b = data[4 * (y * width + x + 1) + c];
          pairs.n += 1;
          pairs.a += a;
          pairs.b += b;
          pairs.aa += a * a;
          pairs.bb += b * b;
          pairs.ab += a * b;
        }
      }
    }
    const n = 3 * size * size;
    contrast += Math.sqrt(squares / n - (sum / n) ** 2);
    tiles += 1;
  }
}
const { n, a, b, aa, bb, ab } = pairs;
const correlation = (n * ab - a * b) / Math.sqrt((n * aa - a * a) * (n * bb - b * b));
contrast /= tiles;
console.log(
  `${file}: ${tiles} tiles, neighbours correlate ${correlation.toFixed(3)}, contrast ${contrast.toFixed(1)} of 255`,
);
// NaN (a flat grid) is no picture either.
if (!(correlation > 0.6) || !(contrast > 15)) {
  console.error('the grid is noise or flat');
  process.exitCode = 1;
}
