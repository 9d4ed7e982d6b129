import { Command } from 'commander';
import pc from 'picocolors';
import { chooseAdapter, listAdapterSummaries, matrixTiles } from '../gpu/adapter.ts';
import type { AdapterSummary } from '../gpu/adapter.ts';
import { openGpu } from '../gpu/device.ts';
import { cpuCount, hostMemoryBytes } from '../gpu/platform.ts';
import { selfCheck } from '../train/self-check.ts';
import { messageOf } from '../util/errors.ts';
import type { ExitState } from './main.ts';
import { adapterOption } from './options.ts';
import { readTuned } from './tuned.ts';

export function doctorCommand(state: ExitState): Command {
  return new Command('doctor')
    .description(
      'print adapters, driver, features, limits, toggles, and a remedy for what is missing',
    )
    .option('--json', 'print JSON')
    .addOption(adapterOption())
    .action(async (flags: { adapter: string; json?: boolean }) => {
      state.code = await doctor(flags);
    });
}

const shownLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxImmediateSize',
] as const;

async function doctor(flags: { adapter: string; json?: boolean }): Promise<number> {
  const { total, available } = hostMemoryBytes();
  const { adapters, remedy } = await listAdapterSummaries();
  const chosen = await chooseAdapter({ adapter: flags.adapter }).catch((e: unknown) =>
    messageOf(e),
  );
  const remedies = [...(remedy === null ? [] : [remedy]), ...missing(chosen)];
  const works = typeof chosen === 'string' ? undefined : await tryDevice(flags.adapter);
  if (works !== undefined && works !== 'ok') remedies.push(works);
  const code = works === 'ok' ? 0 : 1;

  if (flags.json === true) {
    const picked = typeof chosen === 'string' ? null : chosen.summary;
    const all = adapters.map((a) => a.summary);
    process.stdout.write(
      `${JSON.stringify({ chosen: picked, adapters: all, tuning: all.map(tuningOf), remedies }, null, 2)}\n`,
    );
    return code;
  }
  const out: string[] = [];
  out.push(
    `machine    ${process.platform} ${process.arch}, Node ${process.versions.node}, ${cpuCount()} cores, ` +
      `${gib(available)} of ${gib(total)} memory free`,
  );
  for (const { summary } of adapters) out.push(`adapter    ${summary.name} (${summary.kind})`);
  if (typeof chosen !== 'string') {
    out.push(...describe(chosen.summary));
    const others = adapters
      .map((a) => a.summary)
      .filter(({ name }) => name !== chosen.summary.name);
    out.push(...[chosen.summary, ...others].map(tuning));
  }
  if (works === 'ok') out.push(pc.green('device     opens, and computes'));
  for (const line of remedies) out.push(pc.yellow(`remedy     ${line}`));
  process.stdout.write(`${out.join('\n')}\n`);
  return code;
}

function describe(summary: AdapterSummary): string[] {
  const { driver, toggles, limits } = summary;
  const version = driver.version === null ? '' : ` ${driver.version}`;
  const width = driver.kind === 'lavapipe' ? `, ${driver.vectorWidth}-bit vectors` : '';
  const lines = [
    `chosen     ${pc.bold(summary.name)}, class ${summary.kind}`,
    `driver     ${driver.kind}${version}${width}; ${summary.description}`,
    `features   ${summary.features.join(', ')}`,
    `subgroups  ${summary.subgroupSizes[0]} to ${summary.subgroupSizes[1]} lanes`,
    `matrices   ${summary.matrixConfigs.length > 0 ? summary.matrixConfigs.join(', ') : 'none'}`,
    `half       ${halfPrecision(summary)}`,
    `toggles    on: ${toggles.enabled.join(', ')}; off: ${toggles.disabled.join(', ')}`,
  ];
  for (const name of shownLimits) lines.push(`limit      ${name} ${limits[name] ?? 'unknown'}`);
  return lines;
}

/** What of half precision the kernels can use; `features` and `matrices` say why not more. */
function halfPrecision(summary: AdapterSummary): string {
  if (!summary.features.includes('shader-f16')) return 'no f16, no tensor cores';
  const [matrix] = matrixTiles(summary);
  if (matrix === undefined) return 'f16, no tensor cores';
  const { MM, MN, MK, LANES } = matrix;
  return `f16, tensor cores of ${MM}×${MN}×${MK} by ${LANES} lanes`;
}

function tuningOf(summary: AdapterSummary) {
  const { choices, ...rest } = readTuned(summary);
  return { adapter: summary.name, ...rest, operations: choices.size };
}

/** What is known of the kernels that are fastest on an adapter. */
function tuning(summary: AdapterSummary): string {
  const { state, path, choices, made, complaint } = readTuned(summary);
  const what = {
    none: 'none yet; `wgsagan tune` measures which kernels are fastest',
    broken: complaint,
    good: `${choices.size} operations, ${age(made)} old: ${path}`,
  }[state];
  return `tuning     ${summary.name}: ${what}`;
}

function age(made: string): string {
  const hours = (Date.now() - Date.parse(made)) / 3_600_000;
  return hours < 48 ? `${hours.toFixed(0)} hours` : `${(hours / 24).toFixed(0)} days`;
}

/** A line for each thing that an adapter lacks. */
function missing(chosen: { summary: AdapterSummary } | string): string[] {
  if (typeof chosen === 'string') return [chosen];
  const { summary } = chosen;
  const lines: string[] = [];
  if (summary.kind === 'software') {
    lines.push(
      "no GPU in use: install your GPU's Vulkan driver; training runs on the CPU meanwhile",
    );
  }
  if (summary.driver.kind === 'swiftshader') {
    lines.push(
      'SwiftShader is several times slower than lavapipe: npm run setup -- --driver lavapipe',
    );
  }
  if (!summary.features.includes('timestamp-query')) {
    lines.push('no timestamp-query: profiles need a driver that has it; training does not');
  }
  if (!summary.features.includes('shader-f16')) {
    lines.push('no shader-f16: half precision needs a driver that has it; f32 training does not');
  }
  return lines;
}

/** Opens a device and computes on it. */
async function tryDevice(adapter: string): Promise<string> {
  try {
    const gpu = await openGpu({ adapter });
    try {
      await selfCheck(gpu);
      return 'ok';
    } finally {
      gpu.close();
    }
  } catch (error) {
    return `the device does not work: ${messageOf(error)}`;
  }
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
