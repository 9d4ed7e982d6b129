// TensorBoard's event files: a row of records, each a protobuf message of type Event between its length and two checksums.

/** When an event was, in seconds since 1970, and at which step. */
interface EventTime {
  readonly wallTime: number;
  readonly step: number;
}

/** A number at a step. */
export interface Scalar {
  readonly tag: string;
  readonly value: number;
}

/** A picture as a PNG file's bytes. */
export interface ImageSummary {
  readonly tag: string;
  readonly width: number;
  readonly height: number;
  readonly png: Uint8Array;
}

/** How many values lie in (limit of the bucket before, limit]. */
export interface Histogram {
  readonly tag: string;
  readonly min: number;
  readonly max: number;
  readonly count: number;
  readonly sum: number;
  readonly sumOfSquares: number;
  readonly limits: readonly number[];
  readonly counts: readonly number[];
}

const polynomial = 0x82f63b78; // CRC-32C (Castagnoli), bits reversed
const crcTable = Uint32Array.from({ length: 256 }, (_u, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? polynomial : 0);
  return crc;
});

/** CRC-32C of bytes (RFC 3720, appendix B.4). */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (crcTable[(crc ^ byte) & 255] ?? 0);
  return (crc ^ 0xffffffff) >>> 0;
}

/** A checksum as TFRecord stores it, so that a checksum of data that holds checksums is still a good one. */
export function maskedCrc32c(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** One record of a TFRecord file: length (u64), its checksum, the data, their checksum; little endian. */
export function record(data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length + 16);
  const view = new DataView(out.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc32c(out.subarray(0, 8)), true);
  out.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc32c(data), true);
  return out;
}

// Protobuf: a field is its number and wire type, then its value.
const varintType = 0;
const doubleType = 1;
const bytesType = 2;
const floatType = 5;

function varint(value: number): number[] {
  const out: number[] = [];
  let rest = BigInt(value);
  while (rest > 127n) {
    out.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  return [...out, Number(rest)];
}

const key = (field: number, type: number) => varint(field * 8 + type);
const joined = (parts: readonly (Uint8Array | readonly number[])[]) =>
  Buffer.concat(parts.map((part) => Uint8Array.from(part)));

const int = (field: number, value: number) => joined([key(field, varintType), varint(value)]);

function double(field: number, value: number): Uint8Array {
  return joined([key(field, doubleType), new Uint8Array(Float64Array.of(value).buffer)]);
}

function float(field: number, value: number): Uint8Array {
  return joined([key(field, floatType), new Uint8Array(Float32Array.of(value).buffer)]);
}

function bytes(field: number, value: Uint8Array): Uint8Array {
  return joined([key(field, bytesType), varint(value.length), value]);
}

const text = (field: number, value: string) => bytes(field, Buffer.from(value, 'utf8'));
const doubles = (field: number, values: readonly number[]) =>
  bytes(field, new Uint8Array(Float64Array.from(values).buffer));

/** Summary.Value: tag 1, then simple_value 2, image 4 or histo 5. */
const scalarValue = ({ tag, value }: Scalar) => joined([text(1, tag), float(2, value)]);

const imageValue = ({ tag, width, height, png }: ImageSummary) =>
  joined([
    text(1, tag),
    // height 1, width 2, colorspace 3 (3 is RGB), encoded_image_string 4
    bytes(4, joined([int(1, height), int(2, width), int(3, 3), bytes(4, png)])),
  ]);

function histogramValue(one: Histogram): Uint8Array {
  const { tag, min, max, count, sum, sumOfSquares, limits, counts } = one;
  const proto = joined([
    ...[double(1, min), double(2, max), double(3, count), double(4, sum)],
    ...[double(5, sumOfSquares), doubles(6, limits), doubles(7, counts)],
  ]);
  return joined([text(1, tag), bytes(5, proto)]);
}

/** The Event that a file begins with. `wallTime` in seconds since 1970, as in all of them. */
export function versionEvent(wallTime: number): Uint8Array {
  return record(joined([double(1, wallTime), text(3, 'brain.Event:2')]));
}

/** An Event that begins a run once more: readers drop what they have of `step` and later. */
export function sessionStart({ wallTime, step }: EventTime): Uint8Array {
  // session_log 7 with status 1 = START
  return record(joined([double(1, wallTime), int(2, step), bytes(7, int(1, 1))]));
}

/** An Event of the values of one step. */
export function summaryEvent(
  { wallTime, step }: EventTime,
  summaries: {
    readonly scalars?: readonly Scalar[];
    readonly images?: readonly ImageSummary[];
    readonly histograms?: readonly Histogram[];
  },
): Uint8Array {
  const { scalars = [], images = [], histograms = [] } = summaries;
  const values = [
    ...scalars.map(scalarValue),
    ...images.map(imageValue),
    ...histograms.map(histogramValue),
  ];
  const summary = joined(values.map((value) => bytes(1, value)));
  return record(joined([double(1, wallTime), int(2, step), bytes(5, summary)]));
}

/** Buckets that grow by a tenth from 10⁻¹² on, to either side of one round 0: TensorBoard's own. */
const edges = (() => {
  const out: number[] = [];
  for (let edge = 1e-12; edge < 1e20; edge *= 1.1) out.push(edge);
  return out;
})();
const allLimits = [...edges.map((edge) => -edge).reverse(), ...edges, Number.MAX_VALUE];

/** The histogram of values; neighbouring empty buckets are one. Values that are no numbers are not counted. */
export function histogramOf(tag: string, values: Float32Array): Histogram {
  const counts = new Array<number>(allLimits.length).fill(0);
  let [min, max, count, sum, sumOfSquares] = [Infinity, -Infinity, 0, 0, 0];
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    const bucket = bucketOf(value);
    counts[bucket] = (counts[bucket] ?? 0) + 1;
    min = Math.min(min, value);
    max = Math.max(max, value);
    count += 1;
    sum += value;
    sumOfSquares += value * value;
  }
  if (count === 0) [min, max] = [0, 0];
  // An empty bucket is kept as the edge of a full one.
  const kept = allLimits.flatMap((limit, i) => {
    const own = counts[i] ?? 0;
    return own > 0 || (counts[i + 1] ?? 0) > 0 ? [{ limit, own }] : [];
  });
  return {
    ...{ tag, min, max, count, sum, sumOfSquares },
    limits: kept.map(({ limit }) => limit),
    counts: kept.map(({ own }) => own),
  };
}

/** The first bucket whose limit is not below the value. */
function bucketOf(value: number): number {
  let [low, high] = [0, allLimits.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((allLimits[middle] ?? Infinity) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
