/** Passes on the latest of many values, at once and then not more often than every so many milliseconds. */
export class Throttle<T> {
  #last = -Infinity;
  #value: T | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly take: (value: T) => void,
    private readonly now: () => number = () => performance.now(),
  ) {}

  set(value: T, everyMs: number): void {
    this.#value = value;
    const wait = this.#last + everyMs - this.now();
    if (wait <= 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#pass();
    } else {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#pass();
      }, wait);
    }
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #pass(): void {
    this.#last = this.now();
    this.take(this.#value as T);
  }
}
