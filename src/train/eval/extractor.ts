/** Images as files hold them: real ones as they were decoded, made ones rounded to bytes as a PNG would round them. */
export interface Images {
  /** [n, channels, size, size], 0 … 255 */
  readonly bytes: Uint8Array;
  readonly n: number;
  readonly channels: 1 | 3;
  readonly size: number;
}

/** What an extractor sees in n images. */
export interface Features {
  /** [n, featureSize] */
  readonly features: Float32Array;
  /** [n, classCount], each row summing to 1; of an extractor that tells classes apart. */
  readonly probabilities?: Float32Array | undefined;
}

/**
 * A net that turns images into the features that distributions are compared in. Numbers of two extractors cannot be compared,
 * so whatever is reported names the extractor and the bytes of its weights.
 */
export interface Extractor {
  /** For people and files, such as `inception-2015-12-05` or `classifier-own (10 classes)`. */
  readonly name: string;
  /** Is it the Inception net that the Fréchet distance is called FID by? Any other distance is called FD. */
  readonly isInception: boolean;
  /** SHA-256 in hex of its weights. */
  readonly weightsHash: string;
  /** Of a classifier of our own: shares, from 0 to 1, that it is right about of images that it was not trained on. */
  readonly accuracy?: Readonly<Record<string, number>>;
  /** How an image becomes what the net sees, such as `none` or `bilinear 299×299, antialias off`. */
  readonly resize: string;
  readonly featureSize: number;
  /** Length of a row of `probabilities`; undefined where it tells no classes apart. */
  readonly classCount: number | undefined;
  /** Images that it works on at a time: callers hand over so many, and only the last time fewer. */
  readonly batch: number;
  /** Grey images are taken by every extractor: one that wants colour repeats the channel. Rows are those of the images. */
  features(images: Images): Promise<Features>;
  /** Gives back its memory on the device. */
  close(): void;
}
