// Set up for every test: two arrays of the same bytes are equal at once. vitest looks at each element as at the key of an
// object, seconds for a megabyte; it still does where the bytes differ, to say where.
import { expect } from 'vitest';

const bytesOf = (view: ArrayBufferView) =>
  Buffer.from(view.buffer, view.byteOffset, view.byteLength);

expect.addEqualityTesters([
  (a: unknown, b: unknown) => {
    if (!ArrayBuffer.isView(a) || !ArrayBuffer.isView(b)) return undefined;
    const alike = Object.getPrototypeOf(a) === Object.getPrototypeOf(b);
    return alike && bytesOf(a).equals(bytesOf(b)) ? true : undefined;
  },
]);
