/** Decoded images of a data set, kept by their numbers: in memory or on disk. */
export interface PixelStore {
  has(image: number): boolean;
  /** Copies an image to `out`; false, with `out` as it was or overwritten, where it is not held or no longer whole. */
  read(image: number, out: Uint8Array): boolean;
  /** Keeps an image; `pixels` are the store's from then on. */
  put(image: number, pixels: Uint8Array): void;
  /** Resolves when so little is unwritten that more may be put. */
  room?(): Promise<void>;
  /** Writes what is not written yet. Never rejects: a store is a help, not a need. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** All images in memory, each once it was put there. */
export class MemoryPixels implements PixelStore {
  private readonly pixels: Uint8Array;
  private readonly held: Uint8Array;
  private readonly imageBytes: number;

  constructor(images: number, imageBytes: number) {
    this.pixels = new Uint8Array(images * imageBytes);
    this.held = new Uint8Array(images);
    this.imageBytes = imageBytes;
  }

  has(image: number): boolean {
    return this.held[image] === 1;
  }

  read(image: number, out: Uint8Array): boolean {
    if (!this.has(image)) return false;
    const begin = image * this.imageBytes;
    out.set(this.pixels.subarray(begin, begin + this.imageBytes));
    return true;
  }

  put(image: number, pixels: Uint8Array): void {
    this.pixels.set(pixels, image * this.imageBytes);
    this.held[image] = 1;
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
