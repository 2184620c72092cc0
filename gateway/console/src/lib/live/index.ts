export { Live, live, type LiveState, type TopicReader } from './live.svelte.ts';
export { Topic } from '#gen/mlxmesh/telemetry/v1/live_pb.ts';
