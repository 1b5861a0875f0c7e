// What outlives the page: localStorage, and the page's memory where that is refused or full.

export class Store {
  private readonly memory = new Map<string, string>();

  get(key: string): string | null {
    return this.memory.get(key) ?? attempt(() => localStorage.getItem(key)) ?? null;
  }

  put(key: string, value: string): void {
    const kept = attempt(() => (localStorage.setItem(key, value), true));
    if (kept) this.memory.delete(key);
    else {
      this.remove(key); // or the next page would read what was true before: another's login, a withdrawn yes
      this.memory.set(key, value);
    }
  }

  remove(key: string): void {
    this.memory.delete(key);
    attempt(() => localStorage.removeItem(key));
  }

  /** The keys that begin so, in their order. */
  keys(prefix: string): string[] {
    const stored = attempt(() => Object.keys(localStorage)) ?? [];
    return [...new Set([...stored, ...this.memory.keys()])].filter((key) => key.startsWith(prefix)).sort();
  }
}

/** Browsers throw where a person has forbidden storage, and where it is full. */
function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}
