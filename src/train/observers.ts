import type { TrainEvents } from './trainer.ts';

/** Observers as one: each is told everything, in their order. */
export function together(...observers: readonly TrainEvents[]): TrainEvents {
  const each = (tell: (one: TrainEvents) => void) => {
    for (const one of observers) tell(one);
  };
  return {
    onReady: (info) => {
      each((one) => one.onReady?.(info));
    },
    onStage: (stage) => {
      each((one) => one.onStage?.(stage));
    },
    onStep: (step) => {
      each((one) => one.onStep?.(step));
    },
    onMetrics: (line) => {
      each((one) => one.onMetrics?.(line));
    },
    onAlarm: (alarm) => {
      each((one) => one.onAlarm?.(alarm));
    },
    onSamples: async (path, step) => {
      for (const one of observers) await one.onSamples?.(path, step);
    },
    onCheckpoint: (path, step) => {
      each((one) => one.onCheckpoint?.(path, step));
    },
  };
}
