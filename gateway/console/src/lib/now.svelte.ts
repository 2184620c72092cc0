/** The time, told once a second while somebody reads it. */
class Now {
  ms = $state(Date.now());

  constructor() {
    if (typeof window !== 'undefined') setInterval(() => (this.ms = Date.now()), 1000);
  }
}

export const now = new Now();
