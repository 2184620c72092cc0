/** Begins a sign-in at the OpenID Connect issuer; returns its page. Throws an Error that says why not. */
export async function beginOidc(): Promise<string> {
  const response = await fetch('/session/oidc', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' });
  const answer = (await response.json()) as { authorization_url?: string; message?: string };
  const url = URL.parse(answer.authorization_url ?? '');
  if (response.ok && url && ['https:', 'http:'].includes(url.protocol)) return url.href;
  throw new Error(answer.message ?? `the gateway answered ${response.status}`);
}
