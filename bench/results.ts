import { z } from 'zod';

// What a bench measured, as it is kept in bench/results: read again by `bench report`, and by whoever wants the numbers.

const summarySchema = z.object({
  median: z.number(),
  p10: z.number(),
  p90: z.number(),
  samples: z.int(),
});

const environmentSchema = z.object({
  adapter: z.string(),
  kind: z.string(),
  description: z.string(),
  driver: z.string(),
  robustness: z.enum(['on', 'off']),
  toggles: z.object({
    enabled: z.array(z.string()).readonly(),
    disabled: z.array(z.string()).readonly(),
  }),
  clock: z.string(),
  polling: z.string(),
  frequencies: z.string(),
  wgsagan: z.string(),
  node: z.string(),
  machine: z.string(),
  date: z.string(),
});

const peaksSchema = z.object({
  fmaGflops: z.number(),
  copyGBs: z.number(),
  f16Gflops: z.number().optional(),
  matrixGflops: z.number().optional(),
  clock: z.enum(['gpu', 'wall']),
});

const rungSchema = z.object({
  rung: z.string(),
  tile: z.record(z.string(), z.union([z.number(), z.string()])),
  /** What runs for these sizes on this adapter. */
  shipped: z.boolean(),
  ms: summarySchema.optional(),
  gflops: z.number().optional(),
  gbs: z.number().optional(),
  /** Of the roof that binds: the least time that the operation could take, as a share of the median. */
  percentOfPeak: z.number().optional(),
  roof: z.enum(['compute', 'memory']).optional(),
  /** Operands and scratch. */
  memoryBytes: z.number().optional(),
  /** Entries that were compared with float64. */
  verified: z.int().optional(),
  /** Why there is no time. */
  left: z.string().optional(),
});

const ladderSchema = z.object({
  kind: z.literal('ladder'),
  bench: z.string(),
  environment: environmentSchema,
  peaks: peaksSchema,
  settings: z.object({ rounds: z.int(), seconds: z.number(), flush: z.boolean() }),
  cases: z.array(
    z.object({
      label: z.string(),
      pass: z.string(),
      ladder: z.string(),
      sizes: z.record(z.string(), z.union([z.number(), z.string()])),
      flops: z.number(),
      bytes: z.number(),
      rungs: z.array(rungSchema),
    }),
  ),
});

const stepSchema = z.object({
  kind: z.literal('step'),
  bench: z.literal('step'),
  environment: environmentSchema,
  settings: z.object({ rounds: z.int() }),
  cases: z.array(
    z.object({
      preset: z.string(),
      /** Absent in results of before there was another. */
      precision: z.enum(['f32', 'f16']).optional(),
      batch: z.int(),
      launches: z.int(),
      /** If no launch went over several tensors side by side. Absent in results of before it was counted. */
      launchesApart: z.int().optional(),
      gflop: z.number(),
      /** From the first call to the device's end. */
      ms: summarySchema,
      gflops: z.number(),
      stepsPerSecond: z.number(),
      imagesPerSecond: z.number(),
      encodeUsPerLaunch: z.number(),
      plannedBytes: z.number(),
      unplannedBytes: z.number(),
      residentBytes: z.number(),
    }),
  ),
});

const overheadSchema = z.object({
  kind: z.literal('overhead'),
  bench: z.literal('overhead'),
  environment: environmentSchema,
  settings: z.object({ rounds: z.int() }),
  cases: z.array(
    z.object({
      preset: z.string(),
      precision: z.enum(['f32', 'f16']),
      batch: z.int(),
      attention: z.string(),
      /** Feature sizes with attention in the generator and in the discriminator. */
      stages: z.object({ G: z.array(z.int()), D: z.array(z.int()) }),
      launches: z.int(),
      gflop: z.number(),
      ms: summarySchema,
      /** Over the step without attention that ran in the same round. */
      overNone: summarySchema,
      plannedBytes: z.number(),
    }),
  ),
});

export const resultSchema = z.discriminatedUnion('kind', [
  ladderSchema,
  stepSchema,
  overheadSchema,
]);

export type LadderResult = z.infer<typeof ladderSchema>;
export type LadderCase = LadderResult['cases'][number];
export type RungResult = z.infer<typeof rungSchema>;
export type StepResult = z.infer<typeof stepSchema>;
export type StepCase = StepResult['cases'][number];
export type OverheadResult = z.infer<typeof overheadSchema>;
export type OverheadCase = OverheadResult['cases'][number];
export type BenchResult = LadderResult | StepResult | OverheadResult;
