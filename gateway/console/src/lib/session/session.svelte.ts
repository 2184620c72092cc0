/** A signed-in user. */
export interface User {
  name: string;
  /** admin, or client. */
  role: string;
}

/** The answer of GET and POST /session. */
export interface SessionAnswer {
  /** Whether callers must say who they are; a mesh without users is open on loopback. */
  authentication: boolean;
  /** Whether the mesh has users. */
  has_users?: boolean;
  /** Whether people may make themselves a user. */
  sign_up?: boolean;
  /** The name of the OpenID Connect issuer; empty without one. */
  oidc?: string;
  user?: User | null;
  /** The caller's role; empty for one who must sign in. */
  role?: string;
  csrf_token?: string;
}

export type SessionState = 'loading' | 'open' | 'signed_in' | 'signed_out' | 'unreachable';

/** Who uses the console. */
class Session {
  state = $state<SessionState>('loading');
  user = $state<User | null>(null);
  role = $state('');
  csrfToken = $state('');
  /** The last answer, for the pages that sign in and set up. */
  answer = $state.raw<SessionAnswer>({ authentication: true });

  #loading: Promise<void> | undefined;

  /** Whether the user may do what needs the role admin. */
  get isAdmin(): boolean {
    return this.role === 'admin';
  }

  /** Whether calls are answered. */
  get isReady(): boolean {
    return this.state === 'open' || this.state === 'signed_in';
  }

  /** Asks who is signed in, which also renews a session whose access token has expired. */
  load(): Promise<void> {
    this.#loading ??= this.#load().finally(() => (this.#loading = undefined));
    return this.#loading;
  }

  async #load(): Promise<void> {
    try {
      const response = await fetch('/session', { headers: { accept: 'application/json' } });
      if (!response.ok) throw new Error(await messageOf(response));
      this.take((await response.json()) as SessionAnswer);
    } catch {
      if (!this.isReady) this.state = 'unreachable';
    }
  }

  /** Begins a session by a name and a password, or by what an issuer sent back. Throws an Error that says why not. */
  async signIn(body: { name: string; password: string } | { state: string; code: string }): Promise<void> {
    const response = await fetch('/session', {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(await messageOf(response));
    this.take((await response.json()) as SessionAnswer);
  }

  async signOut(): Promise<void> {
    const response = await fetch('/session', { method: 'DELETE', headers: { 'x-csrf-token': this.csrfToken } });
    if (!response.ok && response.status !== 401) throw new Error(await messageOf(response));
    this.expire();
  }

  /** The session has ended. */
  expire(): void {
    this.take({ ...this.answer, authentication: true, user: null, role: '', csrf_token: '' });
  }

  take(answer: SessionAnswer): void {
    this.answer = answer;
    this.user = answer.user ?? null;
    this.role = answer.role ?? answer.user?.role ?? (answer.authentication ? '' : 'admin');
    this.csrfToken = answer.csrf_token ?? '';
    this.state = this.user ? 'signed_in' : this.role ? 'open' : 'signed_out';
  }
}

async function messageOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const { message } = JSON.parse(text) as { message?: string };
    if (message) return message;
  } catch {
    // Not JSON: the text itself says why.
  }
  return text.slice(0, 300) || `the gateway answered ${response.status}`;
}

export const session = new Session();
