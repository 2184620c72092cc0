import { toJson, type JsonValue } from '@bufbuild/protobuf';
import { EventSchema, type Event } from '#gen/mlxmesh/telemetry/v1/events_pb.ts';

/** What an event's payload says, as names and texts. */
export function detailsOf(event: Event): [string, string][] {
  const json = toJson(EventSchema, event) as Record<string, JsonValue>;
  const payload = event.payload.case ? json[event.payload.case] : undefined;
  return flat(payload, '');
}

function flat(value: JsonValue | undefined, name: string): [string, string][] {
  if (value === undefined || value === null) return [];
  if (typeof value !== 'object') return [[name, String(value)]];
  const entries = Array.isArray(value) ? value.map((one, at): [string, JsonValue] => [String(at), one]) : Object.entries(value);
  return entries.flatMap(([key, one]) => flat(one as JsonValue, name ? `${name}.${key}` : key));
}
