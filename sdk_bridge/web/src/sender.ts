// Brings the queue to the bridge: one request at a time, again after what may pass, never twice for one 200.
import { BATCH, bytesOf, type Parcel, type Queue } from "./queue";

const LINGER_MS = 500; // calls made together go together
const FULL = 20; // so many do not wait
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 60_000;
const LONGEST_ASKED_MS = 300_000; // a bridge that asks for a day must not silence a page for a day
const REQUEST_MS = 15_000; // a request without an answer would hold up everything behind it
const OTHER_TAB_MS = 2_000;
const PARCEL_CHARS = 120_000; // at three bytes each below the bridge's 500 KB
const LEAVING_BYTES = 60_000; // browsers let 64 KB be on their way when a page ends
const AGAIN = [408, 410, 429, 460];
const NEVER_AGAIN = [501, 505];

export class Sender {
  refused = 0;
  private failures = 0;
  private quietUntil = 0;
  private running: Promise<void> | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly queue: Queue,
    private readonly host: string,
    private readonly writeKey: string,
    private readonly lock: string,
  ) {}

  /** Something was queued. */
  soon(): void {
    if (!this.failures && !this.quiet && this.queue.length >= FULL) void this.flush();
    else this.later(LINGER_MS);
  }

  /** The network is back, or the page is: a wait that the bridge asked for still counts. */
  awake(): void {
    if (!this.quiet) void this.flush();
  }

  /** Sends what is queued; resolves when nothing more can be done for now. */
  flush(): Promise<void> {
    this.running ??= this.alone(() => this.sendAll()).finally(() => (this.running = undefined));
    return this.running;
  }

  private async sendAll(): Promise<void> {
    for (let parcel; (parcel = this.queue.head(PARCEL_CHARS)); ) {
      const wait = await this.deliver(parcel, false);
      if (wait) return this.again(wait);
    }
    this.cancel();
  }

  /** The page may end at any moment: everything that still can go goes now, also what is on its way. */
  leave(): void {
    if (this.quiet) return;
    let room = LEAVING_BYTES;
    let last = "";
    for (let parcel; (parcel = this.queue.head(room / 3, last)); last = parcel.keys[parcel.keys.length - 1]!) {
      room -= bytesOf(this.body(parcel));
      if (room < 0) return; // the next page sends it
      void this.deliver(parcel, true).then((wait) => wait && this.again(wait));
    }
  }

  private get quiet(): boolean {
    return performance.now() < this.quietUntil; // the device's clock may be set back for hours
  }

  /** Sends a parcel; 0 when it is dealt with, else the milliseconds to wait. */
  private async deliver(parcel: Parcel, leaving: boolean): Promise<number> {
    let status = 0;
    let asked = 0;
    try {
      const answer = await fetch(this.host + parcel.path, {
        method: "POST",
        body: this.body(parcel), // as text/plain, so that no browser asks for permission first
        credentials: "omit",
        redirect: "manual", // a redirected POST arrives without its body, and would look delivered
        keepalive: leaving,
        ...("timeout" in AbortSignal && !leaving ? { signal: AbortSignal.timeout(REQUEST_MS) } : {}),
      });
      asked = Math.min(LONGEST_ASKED_MS, 1000 * (Number(answer.headers.get("Retry-After")) || 0));
      // A hotspot's own page answers everything with 200.
      if (!answer.ok || (await answer.json())?.success === true) status = answer.status;
    } catch {
      // No answer of the bridge's: offline, a broken connection, the page has ended. It may have arrived; ids tell.
    }
    if (mayPass(status)) {
      this.quietUntil = asked ? performance.now() + asked : 0;
      return Math.max(asked, this.backOff());
    }
    if (status >= 400) this.refuse(parcel, status);
    this.failures = 0;
    this.queue.remove(parcel.keys);
    return 0;
  }

  private refuse(parcel: Parcel, status: number): void {
    this.refused += parcel.keys.length;
    console.warn(`footfall: ${parcel.path} refused ${parcel.keys.length} calls for good: ${status}`);
  }

  /** Doubling, and jittered: a shop's visitors must not come back all at once. */
  private backOff(): number {
    const longest = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(this.failures++, 10));
    return longest * (0.5 + Math.random() / 2);
  }

  private body(parcel: Parcel): string {
    const shared = { writeKey: this.writeKey, sentAt: new Date().toISOString() };
    return JSON.stringify(
      parcel.path === BATCH ? { ...shared, batch: parcel.bodies } : { ...parcel.bodies[0], ...shared },
    );
  }

  /** Only one tab of a shop sends at a time; where browsers cannot agree, or deny it as they deny storage, the
   * bridge knows repeats by their id. */
  private async alone(work: () => Promise<void>): Promise<void> {
    const asked = navigator.locks?.request(this.lock, { ifAvailable: true }, async (lock) => {
      if (lock) await work();
      else this.later(OTHER_TAB_MS);
      return true;
    });
    if (!(await asked?.catch(() => false))) await work();
  }

  private later(milliseconds: number): void {
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      void this.flush();
    }, milliseconds);
  }

  /** As `later`, whatever was planned: a call made meanwhile must not shorten the wait. */
  private again(milliseconds: number): void {
    this.cancel();
    this.later(milliseconds);
  }

  private cancel(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}

/** Whether the same calls may be taken another time; 0 is no answer of the bridge's, 3xx a proxy in between. */
function mayPass(status: number): boolean {
  if (status < 200 || (status >= 300 && status < 400)) return true;
  return AGAIN.includes(status) || (status >= 500 && !NEVER_AGAIN.includes(status));
}
