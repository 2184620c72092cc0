import type { Event } from '#gen/mlxmesh/telemetry/v1/events_pb.ts';
import { live, Topic } from '#lib/live/index.ts';

/** As many as a gateway keeps itself. */
export const MAX_EVENTS = 4096;

/** The events, live, the newest first. */
export class EventsState {
  list = $state.raw<readonly Event[]>([]);
  synced = $state(false);
  problem = $state('');
  /** Events that are missing: the gateway keeps no more, or restarted. */
  gaps = $state(0);

  #waiting: Event[] = [];
  #frame = 0;

  follow(): () => void {
    const stop = live.watch(Topic.EVENTS, {
      onStart: () => this.#clear(),
      onNews: (news) => {
        if (news.case !== 'event') return;
        const { item } = news.value;
        if (item.case === 'event') this.#take(item.value);
        if (item.case === 'gap') this.gaps += 1;
      },
      onState: (state) => {
        this.synced ||= state.synced;
        this.problem = state.failure?.message ?? '';
      },
    });
    return () => {
      cancelAnimationFrame(this.#frame);
      this.#frame = 0;
      stop();
    };
  }

  #clear(): void {
    this.#waiting = [];
    this.list = [];
  }

  #take(event: Event): void {
    this.#waiting.push(event);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.list = [...this.#waiting.toReversed(), ...this.list].slice(0, MAX_EVENTS);
      this.#waiting = [];
    });
  }
}

/** The part of a name before its dot. */
export function areaOf({ name }: Event): string {
  return name.split('.')[0] ?? '';
}

/** Good, bad or neither, by what its name says. */
export function toneOf({ name }: Event): 'good' | 'bad' | 'neutral' {
  const action = name.split('.')[1] ?? '';
  if (/(crashed|failed|opened|overloaded|lost|rejected|short|rolled_back)$/.test(action)) return 'bad';
  return /(ready|loaded|resumed|closed|registered|pulled|promoted|recovered|completed)$/.test(action) ? 'good' : 'neutral';
}
