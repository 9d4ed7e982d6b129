import { UserError } from '../util/errors.ts';
import { createInstance, installPollThrottle } from './platform.ts';
import type { DriverInUse, PlatformOptions, Toggles } from './platform.ts';

export type AdapterKind = 'discrete' | 'integrated' | 'software';

export interface AdapterChoice extends PlatformOptions {
  /**
   * `auto` (discrete before integrated before software), a kind, a software driver's name, or part of an adapter's
   * name.
   */
  readonly adapter?: string;
}

/** What is known of an adapter; plain data, safe to print and to save. */
export interface AdapterSummary {
  readonly name: string;
  readonly kind: AdapterKind;
  readonly vendor: string;
  readonly architecture: string;
  readonly description: string;
  readonly subgroupSizes: readonly [number, number];
  readonly matrixConfigs: readonly string[];
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
  readonly driver: DriverInUse;
  readonly toggles: Toggles;
}

interface MatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** What a product of subgroup matrices is made of: [MM, MK] · [MK, MN] by the LANES of a subgroup. */
export interface MatrixTile {
  readonly MM: number;
  readonly MN: number;
  readonly MK: number;
  readonly LANES: number;
}

export const matrixFeatures = [
  'shader-f16',
  'subgroups',
  'chromium-experimental-subgroup-matrix',
] as const;

/**
 * The products of f16 matrices with f32 sums that an adapter offers, those with the most multiply-adds first. None where
 * its subgroups have no one size: which lanes hold a matrix would not be known when a kernel is made.
 */
export function matrixTiles(
  adapter: Pick<AdapterSummary, 'subgroupSizes' | 'matrixConfigs' | 'features'>,
): MatrixTile[] {
  const [least, LANES] = adapter.subgroupSizes;
  const has = (feature: string) => adapter.features.includes(feature);
  if (least !== LANES || !matrixFeatures.every(has)) return [];
  return adapter.matrixConfigs
    .map((config) => /^f16→f32 (\d+)×(\d+)×(\d+)$/.exec(config)?.slice(1).map(Number) ?? [])
    .map(([MM = 0, MN = 0, MK = 0]) => ({ MM, MN, MK, LANES }))
    .filter(({ MM, MN, MK }) => MM > 0 && (MM * MN) % LANES === 0 && 32 % MK === 0)
    .sort((a, b) => b.MM * b.MN * b.MK - a.MM * a.MN * a.MK);
}

/** Every adapter that the options' driver shows, best first. */
export async function listAdapterSummaries(options: PlatformOptions = {}) {
  const platform = await createInstance(options);
  const adapters = platform.adapters.map((adapter) => ({
    adapter,
    summary: summarise(adapter, platform),
  }));
  return { ...platform, adapters };
}

/** The adapter that the options choose. Throws a `UserError` with the remedy where there is none. */
export async function chooseAdapter(options: AdapterChoice) {
  const wanted = options.adapter ?? 'auto';
  const isDriver = wanted === 'lavapipe' || wanted === 'swiftshader';
  const found = await listAdapterSummaries(isDriver ? { ...options, driver: wanted } : options);
  const { adapters, remedy } = found;
  const [summary] = rankAdapters(
    adapters.map((a) => a.summary),
    isDriver ? 'auto' : wanted,
  );
  const best = adapters.find((a) => a.summary === summary);
  if (best !== undefined) {
    if (best.summary.kind === 'software') installPollThrottle();
    return best;
  }
  if (adapters.length === 0) throw new UserError(remedy ?? 'no GPU adapter was found');
  const names = adapters.map((a) => `${a.summary.name} (${a.summary.kind})`).join(', ');
  throw new UserError(`no adapter matches --adapter ${wanted}; there is: ${names}`);
}

/** The adapters that `wanted` (`auto`, a kind, or part of a name) means: discrete, then integrated, then software ones. */
export function rankAdapters<A extends Pick<AdapterSummary, 'name' | 'kind' | 'description'>>(
  adapters: readonly A[],
  wanted: string,
): A[] {
  const order: readonly AdapterKind[] = ['discrete', 'integrated', 'software'];
  const fits = ({ name, kind, description }: A) =>
    wanted === 'auto' ||
    kind === wanted ||
    `${name} ${description}`.toLowerCase().includes(wanted.toLowerCase());
  return adapters.filter(fits).sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
}

function summarise(
  adapter: GPUAdapter,
  { driver, toggles }: { driver: DriverInUse; toggles: Toggles },
): AdapterSummary {
  const info = adapter.info;
  const limits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = (adapter.limits as unknown as Record<string, unknown>)[name];
    if (typeof value === 'number') limits[name] = value;
  }
  const configs =
    (info as unknown as { subgroupMatrixConfigs?: readonly MatrixConfig[] })
      .subgroupMatrixConfigs ?? [];
  return {
    name: info.device || info.description || info.architecture || info.vendor,
    kind: kindOf(info),
    vendor: info.vendor,
    architecture: info.architecture,
    description: info.description,
    subgroupSizes: [info.subgroupMinSize ?? 1, info.subgroupMaxSize ?? 1],
    matrixConfigs: configs.map(
      (c) => `${c.componentType}→${c.resultComponentType} ${c.M}×${c.N}×${c.K}`,
    ),
    features: [...adapter.features].sort(),
    limits,
    driver,
    toggles,
  };
}

/** WebGPU does not say whether a GPU has memory of its own; the vendors of chips without any are few. */
export function kindOf(
  info: Pick<
    GPUAdapterInfo,
    'vendor' | 'architecture' | 'device' | 'description' | 'isFallbackAdapter'
  >,
): AdapterKind {
  const text = `${info.vendor} ${info.architecture} ${info.device} ${info.description}`;
  if (info.isFallbackAdapter || /llvmpipe|lavapipe|swiftshader|basic render/i.test(text)) {
    return 'software';
  }
  return /intel|apple|qualcomm|arm\b|imgtec|samsung|broadcom/i.test(text) && !/\barc\b/i.test(text)
    ? 'integrated'
    : 'discrete';
}
