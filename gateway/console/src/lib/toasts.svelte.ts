import type { ApiError } from '#lib/api/errors.ts';

export interface Toast {
  id: number;
  tone: 'good' | 'bad' | 'info';
  text: string;
  detail: string;
}

const SHOWN_MS = 6_000;
const MAX_TOASTS = 4;

/** Short messages about what an action did. Failures stay until they are closed. */
class Toasts {
  list = $state<Toast[]>([]);
  #next = 1;

  good(text: string): void {
    this.#add({ tone: 'good', text, detail: '' });
  }

  info(text: string): void {
    this.#add({ tone: 'info', text, detail: '' });
  }

  bad(text: string, detail = ''): void {
    this.#add({ tone: 'bad', text, detail });
  }

  failed(error: ApiError): void {
    this.bad(error.message || error.code, error.reason || error.code);
  }

  close(id: number): void {
    this.list = this.list.filter((one) => one.id !== id);
  }

  #add(toast: Omit<Toast, 'id'>): void {
    const id = this.#next++;
    this.list = [...this.list, { id, ...toast }].slice(-MAX_TOASTS);
    if (toast.tone !== 'bad') setTimeout(() => this.close(id), SHOWN_MS);
  }
}

export const toasts = new Toasts();
