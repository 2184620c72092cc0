import { create, fromJson, toJson, type JsonValue } from '@bufbuild/protobuf';
import { LiveService, Topic, WatchRequestSchema, WatchResponseSchema, type WatchResponse } from '#gen/mlxmesh/telemetry/v1/live_pb.ts';

/** The last event that was received. */
export interface EventPosition {
  sequence: bigint;
  logId: string;
}

export const { EVENTS, MODELS } = Topic;

/** The topic that a kind of news belongs to. */
export const TOPIC_OF: Partial<Record<NonNullable<WatchResponse['news']['case']>, Topic>> = {
  mesh: Topic.MESH,
  model: Topic.MODELS,
  event: Topic.EVENTS,
  requests: Topic.REQUESTS,
  jobs: Topic.JOBS,
  downloads: Topic.DOWNLOADS,
  system: Topic.SYSTEM,
};

/** The address of a stream of these topics. */
export function watchUrl(topics: Topic[], lastEvent: EventPosition | undefined): string {
  const request = create(WatchRequestSchema, { topics: topics.toSorted() });
  if (topics.includes(EVENTS) && lastEvent) {
    request.afterEvent = lastEvent.sequence;
    request.eventLogId = lastEvent.logId;
  }
  const message = JSON.stringify(toJson(WatchRequestSchema, request));
  return `/${LiveService.typeName}/Watch?message=${encodeURIComponent(message)}`;
}

export function parse(json: unknown): WatchResponse {
  return fromJson(WatchResponseSchema, json as JsonValue, { ignoreUnknownFields: true });
}
