/** Where to go after the sign-in: a path of this console, whatever the address says. */
export function safeNext(next: string | null, origin: string): string {
  if (!next?.startsWith('/')) return '/';
  let url: URL;
  try {
    url = new URL(next, origin);
  } catch {
    return '/';
  }
  const isOwn = url.origin === origin && !['/sign-in', '/first-run'].includes(url.pathname);
  return isOwn ? url.pathname + url.search + url.hash : '/';
}
