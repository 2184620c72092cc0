import { ModelService } from '#gen/mlxmesh/model/v1/model_pb.ts';
import { clientOf } from '#lib/api/index.ts';

/** The names of the models that the caller may use. */
export async function modelNames(): Promise<string[]> {
  const { models } = await clientOf(ModelService).listModels({ pageSize: 1000 });
  return models.map(({ name }) => name);
}
