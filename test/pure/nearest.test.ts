import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { didYouMean, editDistance, nearest } from '../../src/util/nearest.ts';

const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '-'), maxLength: 8 });

describe('nearest known word', () => {
  test('counts insertions, deletions, replacements and exchanges of neighbours', () => {
    expect(editDistance('', '')).toBe(0);
    expect(editDistance('batch', '')).toBe(5);
    expect(editDistance('batch', 'bach')).toBe(1);
    expect(editDistance('batch', 'bathc')).toBe(1);
    expect(editDistance('batch', 'latch')).toBe(1);
    expect(editDistance('kitten', 'sitting')).toBe(3);
  });

  test('the distance is symmetric, and zero only between equal words', () => {
    fc.assert(
      fc.property(word, word, (a, b) => {
        expect(editDistance(a, b)).toBe(editDistance(b, a));
        expect(editDistance(a, b) === 0).toBe(a === b);
        expect(editDistance(a, b)).toBeGreaterThanOrEqual(Math.abs(a.length - b.length));
        expect(editDistance(a, b)).toBeLessThanOrEqual(Math.max(a.length, b.length));
      }),
    );
  });

  test('finds the word that was meant, in any case', () => {
    const known = ['batch', 'steps', 'image-size', 'latent-size'];
    expect(nearest('bacth', known)).toBe('batch');
    expect(nearest('Steps', known)).toBe('steps');
    expect(nearest('imagesize', known)).toBe('image-size');
  });

  test('says nothing where no word is near', () => {
    expect(nearest('zzzzzz', ['batch', 'steps'])).toBeUndefined();
    expect(nearest('batch', [])).toBeUndefined();
    expect(didYouMean('zzzzzz', ['batch'])).toBe('');
    expect(didYouMean('bath', ['batch'])).toBe('; did you mean batch?');
  });
});
