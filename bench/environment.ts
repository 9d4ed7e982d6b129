import { execFileSync } from 'node:child_process';
import os from 'node:os';
import type { Gpu } from '../src/gpu/device.ts';
import { cpuCount, engineVersion } from '../src/gpu/platform.ts';
import { clockOf } from '../src/gpu/timing.ts';

/** What a measurement was made on, and how: without it a number says nothing. */
export interface Environment {
  readonly adapter: string;
  readonly kind: string;
  readonly description: string;
  readonly driver: string;
  /** Does Dawn keep shaders from reading past the end of a buffer? */
  readonly robustness: 'on' | 'off';
  readonly toggles: { readonly enabled: readonly string[]; readonly disabled: readonly string[] };
  /** What times are read from, and how finely. */
  readonly clock: string;
  /** How the host waits for the device. */
  readonly polling: string;
  /** MHz of the processors and of the memory, as the driver's own tool tells them; empty where there is none. */
  readonly frequencies: string;
  readonly wgsagan: string;
  readonly node: string;
  readonly machine: string;
  /** ISO 8601. */
  readonly date: string;
}

export function environmentOf(gpu: Gpu): Environment {
  const { name, kind, description, driver, toggles, vendor } = gpu.adapter;
  const width = driver.kind === 'lavapipe' ? `, ${driver.vectorWidth}-bit vectors` : '';
  const version = driver.version === null ? '' : ` ${driver.version}`;
  const quantised = !toggles.disabled.includes('timestamp_quantization');
  const stamps = `GPU time stamps, quantisation ${quantised ? 'on' : 'off'}`;
  const [cpu] = os.cpus();
  return {
    ...{ adapter: name, kind, description },
    driver: `${driver.kind}${version}${width}`,
    robustness: toggles.enabled.includes('disable_robustness') ? 'off' : 'on',
    toggles,
    clock: clockOf(gpu) === 'gpu' ? stamps : "the host's clock, waits included",
    polling: kind === 'software' ? 'throttled' : 'immediate',
    frequencies: vendor === 'nvidia' ? nvidiaFrequencies() : '',
    wgsagan: engineVersion(),
    node: process.versions.node,
    machine: `${process.platform} ${process.arch}, ${cpuCount()} cores of ${cpu?.model.trim() ?? 'an unknown CPU'}`,
    date: new Date().toISOString(),
  };
}

function nvidiaFrequencies(): string {
  const query = ['--query-gpu=clocks.sm,clocks.mem', '--format=csv,noheader'];
  try {
    const printed = execFileSync('nvidia-smi', query, { encoding: 'utf8', timeout: 5000 });
    const [sm, memory] = (printed.split('\n')[0] ?? '').split(', ');
    return sm && memory ? `${sm} processors, ${memory} memory` : '';
  } catch {
    return '';
  }
}

/** A few lines of text for the head of a table. */
export function environmentLines(e: Environment): string[] {
  const on = e.toggles.enabled.join(', ');
  const off = e.toggles.disabled.join(', ');
  const frequencies = e.frequencies === '' ? '' : `, ${e.frequencies}`;
  return [
    `${e.adapter} (${e.kind}), driver ${e.driver}; ${e.description}`,
    `robustness ${e.robustness}; toggles on: ${on}; off: ${off}`,
    `clock: ${e.clock}; polling ${e.polling}${frequencies}`,
    `wgsagan ${e.wgsagan}, Node ${e.node}, ${e.machine}; ${e.date.slice(0, 10)}`,
  ];
}

/** The name of an adapter as part of a file's name. */
export function slugOf(adapter: string): string {
  return adapter.replaceAll(/[^\w.]+/g, '-').replaceAll(/^-|-$/g, '');
}
