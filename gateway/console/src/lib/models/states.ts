import { ModelKind, VersionState, type Model, type ModelVersion } from '#gen/mlxmesh/model/v1/model_pb.ts';

export type Tone = 'neutral' | 'good' | 'warn' | 'bad' | 'accent';

const STATES: Record<VersionState, { label: string; tone: Tone }> = {
  [VersionState.UNSPECIFIED]: { label: 'unknown', tone: 'neutral' },
  [VersionState.PULLING]: { label: 'downloading', tone: 'accent' },
  [VersionState.AVAILABLE]: { label: 'available', tone: 'neutral' },
  [VersionState.LOADING]: { label: 'loading', tone: 'accent' },
  [VersionState.READY]: { label: 'ready', tone: 'good' },
  [VersionState.UNLOADING]: { label: 'unloading', tone: 'warn' },
  [VersionState.FAILED]: { label: 'failed', tone: 'bad' },
};

/** What a state is called, and how it is shown. */
export function stateOf(version: ModelVersion): { label: string; tone: Tone } {
  return STATES[version.state];
}

/** The version that the bare name means. */
export function defaultVersion(model: Model): ModelVersion | undefined {
  return model.versions.find((one) => one.version === model.defaultVersion) ?? model.versions.at(-1);
}

/** A format as SetOutputFormat takes it; empty leaves it to the chat template. */
export function formatSetting(given: string): string {
  const format = given.trim();
  return format === 'auto' ? '' : format;
}

/** Whether replicas of it run or should run. */
export function isLoaded(version: ModelVersion): boolean {
  return version.desiredReplicas > 0 || version.state === VersionState.UNLOADING;
}

/** Whether its files are there. */
export function isOnDisk(version: ModelVersion): boolean {
  return version.state !== VersionState.PULLING && version.digest !== '';
}

/** Whether it can be loaded or switched on. */
export function canLoad(version: ModelVersion): boolean {
  return isOnDisk(version) || version.upstream !== undefined;
}

/** The weights of all replicas that are ready. */
export function loadedBytes(model: Model): number {
  return model.versions.reduce((sum, one) => sum + one.readyReplicas * Number(one.weightsBytes), 0);
}

const KINDS: Record<ModelKind, string> = {
  [ModelKind.UNSPECIFIED]: '',
  [ModelKind.GENERATION]: 'generation',
  [ModelKind.EMBEDDING]: 'embedding',
  [ModelKind.RERANK]: 'rerank',
  [ModelKind.VISION]: 'vision',
};

/** What it serves; '' where that is not known. */
export function kindOf(version: ModelVersion): string {
  const kind = KINDS[version.kind] ?? '';
  return version.dimensions ? `${kind}, ${version.dimensions.toLocaleString('en')} dimensions` : kind;
}

/** Whether it writes text, as far as it is known. */
export function generates(version: ModelVersion): boolean {
  return version.kind !== ModelKind.EMBEDDING && version.kind !== ModelKind.RERANK;
}

/** 1,200,000,000 as 1.2B. */
export function formatParameters(parameters: bigint): string {
  const count = Number(parameters);
  if (count >= 1e9) return `${(count / 1e9).toFixed(count < 1e10 ? 1 : 0)}B`;
  if (count >= 1e6) return `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)}M`;
  return count ? count.toLocaleString('en') : '';
}
