import type { TrainEvents } from './trainer.ts';

/**
 * Several observers as one: each is told of everything, one after the other in this order. An event is over when the last
 * of them is done with it, and an error of one of them is the event's.
 */
export function together(...observers: readonly TrainEvents[]): Required<TrainEvents> {
  return {
    async onReady(info) {
      for (const one of observers) await one.onReady?.(info);
    },
    async onResume(path, step) {
      for (const one of observers) await one.onResume?.(path, step);
    },
    onStage(stage) {
      for (const one of observers) one.onStage?.(stage);
    },
    onStep(step) {
      for (const one of observers) one.onStep?.(step);
    },
    onMetrics(line) {
      for (const one of observers) one.onMetrics?.(line);
    },
    onAlarm(alarm) {
      for (const one of observers) one.onAlarm?.(alarm);
    },
    async onSamples(path, step) {
      for (const one of observers) await one.onSamples?.(path, step);
    },
    async onCheckpoint(path, step) {
      for (const one of observers) await one.onCheckpoint?.(path, step);
    },
  };
}
