import { ModelKind, ModelService, VersionState, type Model } from '#gen/mlxmesh/model/v1/model_pb.ts';
import { clientOf, toApiError } from '#lib/api/index.ts';
import { defaultVersion, generates } from '#lib/models/states.ts';
import { live } from '#lib/live/live.svelte.ts';

export interface ModelOption {
  value: string;
  label: string;
}

const RELOAD_MS = 300;

/** The models that a conversation can name. */
class Models {
  options = $state.raw<ModelOption[]>([]);
  /** The names of the adapters of each model that has some. */
  adapters = $state.raw<Record<string, string[]>>({});
  /** The references that name a model that reads images. */
  vision = $state.raw<ReadonlySet<string>>(new Set());
  problem = $state('');
  loaded = $state(false);

  #client = clientOf(ModelService);
  #timer: ReturnType<typeof setTimeout> | undefined;

  async load(): Promise<void> {
    try {
      const { models } = await this.#client.listModels({ pageSize: 1000 });
      this.options = models.filter(answers).flatMap(optionsOf);
      this.adapters = adaptersOf(models);
      this.vision = new Set(models.flatMap(visionOf));
      this.problem = '';
    } catch (thrown) {
      this.problem = toApiError(thrown).message;
    }
    this.loaded = true;
  }

  /** Follows the catalogue until the returned function is called. */
  watch(): () => void {
    let stop: (() => void) | undefined;
    let ended = false;
    // The contracts of live news are large, and a conversation begins without them.
    void import('#lib/live/messages.ts').then(({ MODELS }) => {
      if (!ended) stop = live.watch(MODELS, { onNews: () => this.#reloadSoon() });
    });
    return () => {
      ended = true;
      clearTimeout(this.#timer);
      stop?.();
    };
  }

  #reloadSoon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.load(), RELOAD_MS);
  }
}

/** Whether a conversation can have it: vectors and scores are no answers. */
export function answers(model: Model): boolean {
  return model.ensemble !== undefined || model.versions.length === 0 || model.versions.some(generates);
}

/** The bare name, its aliases and adapters, and its versions if it has several. */
export function optionsOf(model: Model): ModelOption[] {
  const state = model.ensemble ? 'ensemble' : stateOf(model);
  const aliases = Object.keys(model.aliases).filter((alias) => alias !== 'default');
  const versions = model.versions.length > 1 ? model.versions : [];
  return [
    { value: model.name, label: state ? `${model.name} (${state})` : model.name },
    ...aliases.sort().map((alias) => option(`${model.name}:${alias}`)),
    ...model.adapters.map(({ name }) => ({ value: `${model.name}:${name}`, label: `${model.name}:${name} (adapter)` })),
    ...versions.map(({ version }) => option(`${model.name}@${version}`)),
  ];
}

export function adaptersOf(models: readonly Model[]): Record<string, string[]> {
  const having = models.filter((model) => model.adapters.length > 0);
  return Object.fromEntries(having.map((model) => [model.name, model.adapters.map(({ name }) => name)]));
}

/** The references of a model that read images: ensembles, upstreams and adapters do not. */
export function visionOf(model: Model): string[] {
  if (model.ensemble) return [];
  const seeing = new Set(model.versions.filter((one) => one.kind === ModelKind.VISION && !one.upstream).map((one) => one.version));
  const bare = defaultVersion(model);
  const aliases = Object.entries(model.aliases).filter(([, version]) => seeing.has(version));
  return [
    ...(bare && seeing.has(bare.version) ? [model.name] : []),
    ...aliases.map(([alias]) => `${model.name}:${alias}`),
    ...Array.from(seeing, (version) => `${model.name}@${version}`),
  ];
}

/** The model of a reference, and the adapter that it names; '' for none. */
export function splitAdapter(reference: string, adapters: Record<string, string[]>): { model: string; adapter: string } {
  const [model = '', suffix = ''] = reference.split(':');
  return adapters[model]?.includes(suffix) ? { model, adapter: suffix } : { model: reference, adapter: '' };
}

function option(value: string): ModelOption {
  return { value, label: value };
}

function stateOf(model: Model): string {
  const states = model.versions.map((one) => one.state);
  if (states.includes(VersionState.READY)) return '';
  return states.includes(VersionState.LOADING) ? 'loading' : 'not loaded';
}

export const models = new Models();
