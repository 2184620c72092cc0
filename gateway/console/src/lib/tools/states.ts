import { ServerState, Approval, type Server, type ToolCallRecord } from '#gen/mlxmesh/tool/v1/tool_pb.ts';

export type Tone = 'neutral' | 'good' | 'warn' | 'bad';

/** What the state of a server is called, and how it looks. */
export function stateOf(server: Server): { label: string; tone: Tone } {
  switch (server.state) {
    case ServerState.READY:
      return { label: 'Ready', tone: 'good' };
    case ServerState.FAILED:
      return { label: 'Failed', tone: 'bad' };
    case ServerState.DISABLED:
      return { label: 'Disabled', tone: 'neutral' };
    default:
      return { label: 'Connecting', tone: 'warn' };
  }
}

export const APPROVALS = [
  { value: String(Approval.ASK), label: 'Ask each time' },
  { value: String(Approval.ALWAYS), label: 'Always allow' },
  { value: String(Approval.NEVER), label: 'Never allow' },
];

/** How a call ended. */
export function outcomeOf(call: ToolCallRecord): { label: string; tone: Tone } {
  if (call.failure) return { label: call.failure.message || call.failure.reason, tone: 'bad' };
  return call.isError ? { label: 'The tool failed', tone: 'warn' } : { label: 'Ok', tone: 'good' };
}

/** How a server is reached, in a line. */
export function reachedBy(server: Server): string {
  if (server.transport.case === 'http') return server.transport.value.url;
  return server.transport.value?.command.join(' ') ?? '';
}
