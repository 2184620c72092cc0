import type { IconName } from '#lib/components/Icon.svelte';

export interface ConsolePage {
  path: '/chat' | '/models' | '/rollouts' | '/experiments' | '/mesh' | '/requests' | '/jobs' | '/tools' | '/access' | '/system' | '/events';
  label: string;
  icon: IconName;
  /** Whether the page is of no use without the role admin. */
  adminsOnly?: boolean;
}

/** The pages of the navigation, in its order. */
export const PAGES: readonly ConsolePage[] = [
  { path: '/chat', label: 'Chat', icon: 'chat' },
  { path: '/models', label: 'Models', icon: 'models' },
  { path: '/rollouts', label: 'Rollouts', icon: 'rollouts' },
  { path: '/experiments', label: 'Experiments', icon: 'experiments' },
  { path: '/mesh', label: 'Mesh', icon: 'mesh' },
  { path: '/requests', label: 'Requests', icon: 'requests' },
  { path: '/jobs', label: 'Jobs', icon: 'jobs' },
  { path: '/tools', label: 'Tools', icon: 'tool' },
  { path: '/access', label: 'Access', icon: 'access' },
  { path: '/system', label: 'System', icon: 'system', adminsOnly: true },
  { path: '/events', label: 'Events', icon: 'events', adminsOnly: true },
];
