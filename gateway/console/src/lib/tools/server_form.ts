import type { MessageInitShape } from '@bufbuild/protobuf';
import type { AddServerRequestSchema, UpdateServerRequestSchema } from '#gen/mlxmesh/tool/v1/tool_pb.ts';
import { Approval, ServerAccess, type Server } from '#gen/mlxmesh/tool/v1/tool_pb.ts';

/** A server as its form has it. */
export interface ServerDraft {
  name: string;
  kind: 'http' | 'stdio';
  url: string;
  /** One argument a line: nothing has to be quoted. */
  command: string;
  directory: string;
  /** NAME=VALUE a line, of headers or of the environment; an empty value keeps a stored one. */
  secrets: string;
  access: string;
  approval: string;
  timeoutS: number | null;
  maxResultKb: number | null;
}

export function newDraft(): ServerDraft {
  return {
    ...{ name: '', kind: 'http', url: '', command: '', directory: '', secrets: '' },
    ...{ access: String(ServerAccess.ADMINS), approval: String(Approval.ASK), timeoutS: 60, maxResultKb: 256 },
  };
}

export function draftOf(server: Server): ServerDraft {
  const { transport, limits } = server;
  const http = transport.case === 'http' ? transport.value : undefined;
  const stdio = transport.case === 'stdio' ? transport.value : undefined;
  const names = Object.keys(http?.headers ?? stdio?.environment ?? {});
  return {
    name: server.name,
    kind: http ? 'http' : 'stdio',
    url: http?.url ?? '',
    command: stdio?.command.join('\n') ?? '',
    directory: stdio?.directory ?? '',
    secrets: names.map((name) => `${name}=`).join('\n'),
    access: String(server.access),
    approval: String(server.defaultApproval),
    timeoutS: (limits?.timeoutMs ?? 0) / 1000,
    maxResultKb: Math.round((limits?.maxResultBytes ?? 0) / 1024),
  };
}

/** Throws an error with a message for the field of secrets. */
export function parsePairs(text: string): Record<string, string> {
  const pairs: Record<string, string> = {};
  for (const line of lines(text)) {
    const at = line.indexOf('=');
    if (at < 1) throw new Error(`“${line}” is not NAME=VALUE`);
    pairs[line.slice(0, at).trim()] = line.slice(at + 1).trim();
  }
  return pairs;
}

/** What AddServer and UpdateServer have in common; throws for secrets that are no pairs. */
export function toRequest(draft: ServerDraft): MessageInitShape<typeof AddServerRequestSchema> & MessageInitShape<typeof UpdateServerRequestSchema> {
  const secrets = parsePairs(draft.secrets);
  return {
    name: draft.name.trim(),
    transport:
      draft.kind === 'http'
        ? { case: 'http', value: { url: draft.url.trim(), headers: secrets } }
        : { case: 'stdio', value: { command: lines(draft.command), directory: draft.directory.trim(), environment: secrets } },
    access: Number(draft.access),
    defaultApproval: Number(draft.approval),
    limits: { timeoutMs: Math.round(Number(draft.timeoutS ?? 0) * 1000), maxResultBytes: Number(draft.maxResultKb ?? 0) * 1024 },
  };
}

function lines(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);
}
