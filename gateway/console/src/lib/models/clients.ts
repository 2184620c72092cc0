import { AdapterService } from '#gen/mlxmesh/model/v1/adapter_pb.ts';
import { HistoryService } from '#gen/mlxmesh/model/v1/history_pb.ts';
import { HubService } from '#gen/mlxmesh/model/v1/hub_pb.ts';
import { ModelService } from '#gen/mlxmesh/model/v1/model_pb.ts';
import { ProfileService } from '#gen/mlxmesh/model/v1/profile_pb.ts';
import { clientOf } from '#lib/api/index.ts';

export const models = clientOf(ModelService);
export const profiles = clientOf(ProfileService);
export const history = clientOf(HistoryService);
export const adapters = clientOf(AdapterService);
export const hub = clientOf(HubService);
