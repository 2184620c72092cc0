import { ModelService, type Model } from '#gen/mlxmesh/model/v1/model_pb.ts';
import { clientOf, toApiError, type ApiError } from '#lib/api/index.ts';

/** The models of the catalogue that have versions of their own, by name. */
export class VersionedModels {
  list = $state.raw<Model[]>([]);
  error = $state.raw<ApiError | undefined>();
  loaded = $state(false);

  async load(): Promise<void> {
    try {
      const models = clientOf(ModelService);
      const found: Model[] = [];
      let pageToken = '';
      do {
        const page = await models.listModels({ pageToken, pageSize: 1000 });
        found.push(...page.models);
        pageToken = page.nextPageToken;
      } while (pageToken);
      this.list = found.filter(({ ensemble }) => !ensemble);
      this.error = undefined;
    } catch (thrown) {
      this.error = toApiError(thrown);
    } finally {
      this.loaded = true;
    }
  }

  named(name: string): Model | undefined {
    return this.list.find((model) => model.name === name);
  }
}

/** Its versions as options, the newest first. */
export function versionOptions(model: Model | undefined): { value: string; label: string }[] {
  return (model?.versions ?? []).toReversed().map(({ version, dtype }) => ({
    value: String(version),
    label: `${version}${version === model?.defaultVersion ? ' (present)' : ''}${dtype ? `, ${dtype}` : ''}`,
  }));
}
