import { availableParallelism } from 'node:os';

/** Decodes kept in flight: enough for every core of sharp's thread pool, few enough that large photographs fit in memory. */
export const DECODES_IN_FLIGHT = Math.max(4, 2 * availableParallelism());

/** Runs `task(0) … task(n - 1)`, at most `limit` at a time. Rejects with the first error, after the running ones end. */
export async function forEachParallel(
  n: number,
  limit: number,
  task: (i: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    while (next < n && !failed) {
      try {
        await task(next++);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: Math.min(n, limit) }, worker));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}
