/** What a connection tells its owner. */
export interface StreamEvents {
  onOpen(): void;
  onMessage(json: unknown): void;
  /** The stream ended; `error` is what the gateway said, if it said anything. */
  onEnd(error?: { code?: string; message?: string }): void;
}

/** Opens one stream and returns what closes it. */
export type OpenStream = (url: string, events: StreamEvents) => () => void;

/** A stream of server-sent events. Reconnecting is left to the caller, who knows where to resume. */
export const openEventSource: OpenStream = (url, events) => {
  const source = new EventSource(url);
  const end = (error?: { code?: string; message?: string }) => {
    source.close();
    events.onEnd(error);
  };
  source.onopen = () => events.onOpen();
  source.onmessage = (event: MessageEvent<string>) => events.onMessage(JSON.parse(event.data));
  source.addEventListener('end', () => end());
  source.addEventListener('error', (event) => {
    const data = (event as MessageEvent<string | undefined>).data;
    end(data ? (JSON.parse(data) as { code?: string; message?: string }) : undefined);
  });
  return () => source.close();
};
