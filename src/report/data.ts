/**
 * What the pages show of a run, as JSON. The server and the writer of reports make it, the modules of `page/` read it:
 * this file is both sides' only common one, and imports nothing.
 */
export interface RunData {
  /** Of the run's folder. */
  readonly name: string;
  /** When this was read, as ISO 8601. */
  readonly made: string;
  readonly state: RunState;
  /** Of metrics.jsonl and eval.jsonl. */
  readonly series: readonly Series[];
  readonly alarms: readonly Alarm[];
  readonly tracks: readonly Track[];
  /** Where the file of attention maps is to be had; the maps themselves in a report, which has no server to ask. */
  readonly attention: Attention | string | null;
  readonly config: readonly Fact[];
  readonly machine: readonly Fact[];
  /** One line for each part of the folder that is there and could not be read. */
  readonly broken: readonly string[];
}

export interface RunState {
  readonly step: number;
  /** What the config asks for; null where it does not say. */
  readonly steps: number | null;
  /** Of training. */
  readonly seconds: number;
  /** `written` in a report: nobody can know later whether the process still lived. */
  readonly status: 'finished' | 'running' | 'stopped' | 'written';
}

/** Values over steps, rising; null where a value was not finite. */
export interface Series {
  /** As in the file: `lossD`, `gradNorm/G`; of evaluations with the extractor: `fd/own classifier`. */
  readonly key: string;
  readonly steps: readonly number[];
  readonly values: readonly (number | null)[];
}

export interface Alarm {
  readonly step: number;
  readonly cause: string;
  readonly text: string;
}

/** Pictures of one kind through time. */
export interface Track {
  readonly kind: 'samples' | 'clips' | 'reconstructions';
  readonly pictures: readonly { readonly step: number; readonly src: string }[];
  /** How many there are in the folder. */
  readonly all: number;
}

/** A line of a table. */
export type Fact = readonly [name: string, value: string];

/** `RUN/attention/step-….json`. */
export interface Attention {
  readonly step: number;
  readonly imageSize: number;
  readonly samples: number;
  /** Base64 of a PNG for each sample. */
  readonly images: readonly string[];
  readonly layers: readonly AttentionLayer[];
}

export interface AttentionLayer {
  readonly name: string;
  readonly heads: number;
  /** Rows and columns of the points that look. */
  readonly queries: readonly [number, number];
  /** Rows and columns of what is looked at. */
  readonly keys: readonly [number, number];
  /** Base64 of u8 [samples, heads, queries, keys]: the largest of each row is 255. */
  readonly maps: string;
}

/** A line in the dashboard's list of runs. */
export interface RunSummary extends RunState {
  readonly id: string;
  /** Of its folder, below the folder that the dashboard was given. */
  readonly name: string;
  /** When metrics were written last, in milliseconds since 1970. */
  readonly changed: number;
  /** Differs whenever anything of the run does. */
  readonly version: number;
  readonly alarms: number;
}
