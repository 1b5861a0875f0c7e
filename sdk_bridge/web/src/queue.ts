// Calls that have no 200 yet. Each lies under a key of its own, so that tabs cannot overwrite each other.
import type { Store } from "./store";

export type Values = Record<string, unknown>;

export interface Call {
  path: string;
  body: Values;
}

/** Calls of one path that go in one request. */
export interface Parcel {
  path: string;
  keys: string[];
  bodies: Values[];
}

export const BATCH = "/v1/batch";
const MAX_CALL_BYTES = 32 * 1024; // the bridge buries larger ones; better to hear of it where they are made
const MAX_CALLS = 500; // a visitor who is offline for a day must not fill the shop's storage
const MAX_CHARS = 512 * 1024; // browsers give an origin some five million, and the shop needs them too
const MAX_PARCEL_CALLS = 100;

export class Queue {
  dropped = 0;
  private added = 0;

  constructor(
    private readonly store: Store,
    private readonly prefix: string,
  ) {}

  get length(): number {
    return this.store.keys(this.prefix).length;
  }

  /** Adds a call; the oldest make room. False for one that the bridge would not take, or that is no JSON. */
  add(call: Call): boolean {
    const text = written(call);
    if (text === null || bytesOf(text) > MAX_CALL_BYTES) {
      this.dropped += 1;
      return false;
    }
    this.makeRoom(text.length);
    this.store.put(this.nextKey(), text);
    return true;
  }

  /** The oldest calls of one path, of no more than so many characters but at least one; null for none. */
  head(maxChars: number, after = ""): Parcel | null {
    const parcel: Parcel = { path: "", keys: [], bodies: [] };
    let chars = 0;
    for (const key of this.store.keys(this.prefix)) {
      if (key <= after) continue;
      const text = this.store.get(key);
      const call = text === null ? null : parsed(text);
      if (text === null || call === null) {
        this.store.remove(key); // another tab has sent it meanwhile, or somebody else wrote there
        continue;
      }
      chars += text.length;
      const fits = call.path === BATCH && call.path === parcel.path && chars <= maxChars;
      if (parcel.keys.length && (!fits || parcel.keys.length === MAX_PARCEL_CALLS)) break;
      parcel.path = call.path;
      parcel.keys.push(key);
      parcel.bodies.push(call.body);
    }
    return parcel.keys.length ? parcel : null;
  }

  remove(keys: string[]): void {
    for (const key of keys) this.store.remove(key);
  }

  clear(): void {
    this.remove(this.store.keys(this.prefix));
  }

  private makeRoom(chars: number): void {
    const keys = this.store.keys(this.prefix);
    const sizes = keys.map((key) => this.store.get(key)?.length ?? 0);
    let held = sizes.reduce((sum, size) => sum + size, chars);
    let gone = 0;
    while (gone < keys.length && (keys.length - gone >= MAX_CALLS || held > MAX_CHARS)) held -= sizes[gone++]!;
    this.remove(keys.slice(0, gone));
    this.dropped += gone;
  }

  /** Sorts by time, then by the order in this tab. */
  private nextKey(): string {
    const digits = (value: number, width: number) => value.toString(36).padStart(width, "0");
    return this.prefix + digits(Date.now(), 9) + digits(this.added++ % 36 ** 4, 4) + randomText(4);
  }
}

export function bytesOf(text: string): number {
  return new TextEncoder().encode(text).length;
}

/** Hexadecimal of so many random bytes; `crypto.randomUUID` is missing on pages without HTTPS. */
export function randomText(bytes: number): string {
  const random = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Null for what goes in circles, such as an element of the page: that is no reason to break the page. */
function written(call: Call): string | null {
  try {
    return JSON.stringify(call);
  } catch {
    return null;
  }
}

function parsed(text: string): Call | null {
  try {
    const call = JSON.parse(text);
    return typeof call?.path === "string" && typeof call.body === "object" && call.body ? call : null;
  } catch {
    return null;
  }
}
