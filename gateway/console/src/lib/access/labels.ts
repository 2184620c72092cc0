import { AccessRole, UserKind, UserState } from '#gen/mlxmesh/access/v1/access_pb.ts';

export const ROLES = [
  { value: String(AccessRole.MEMBER), label: 'Member: generates, reads the catalogue, has own keys' },
  { value: String(AccessRole.ADMIN), label: 'Admin: may do everything' },
];

export const ROLE_NAMES: Record<AccessRole, string> = {
  [AccessRole.UNSPECIFIED]: '–',
  [AccessRole.MEMBER]: 'member',
  [AccessRole.ADMIN]: 'admin',
};

export const KINDS = [
  { value: String(UserKind.PERSON), label: 'Person, who signs in' },
  { value: String(UserKind.SERVICE_ACCOUNT), label: 'Service account, which has keys only' },
];

export const STATES: Record<UserState, { label: string; tone: 'neutral' | 'good' | 'warn' | 'bad' }> = {
  [UserState.UNSPECIFIED]: { label: '–', tone: 'neutral' },
  [UserState.PENDING]: { label: 'pending', tone: 'warn' },
  [UserState.ACTIVE]: { label: 'active', tone: 'good' },
  [UserState.DISABLED]: { label: 'disabled', tone: 'bad' },
};
