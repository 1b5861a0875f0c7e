// The snippet: `footfall.page()`, `.track()`, `.identify()`, `.link()` and so on, as docs/bridge.md has them.
import { askForLink, type Link, show } from "./link";
import { BATCH, Queue, randomText, type Values } from "./queue";
import { Sender } from "./sender";
import { Store } from "./store";

declare const VERSION: string;

type Purposes = Record<string, boolean>;
type Held = [kind: string, fields: Values, at: string];

interface Who {
  anonymousId: string;
  userId?: string;
  userHash?: string;
}

interface IdToken {
  idToken: string;
}

interface Settings {
  writeKey: string;
  host: string;
  /** The purpose without which nothing is sent or stored; undefined where the shop asks elsewhere. */
  purpose?: string | undefined;
}

const PREFIX = "footfall:"; // without the write key: keys are replaced, and visitors stay who they are
// What scripts make of a user who is not there; as the login of one, the next would be somebody else's.
const NOBODY = /^\s*([-0]*|undefined|null|nan|true|false|\[object \w+]|anonymous|guest|unknown)\s*$/i;
const MAX_HELD = 100; // calls that wait for an answer to the consent banner, in the page's memory

class Footfall {
  private readonly store = new Store();
  private readonly queue: Queue;
  private readonly sender: Sender;
  private held: Held[] = [];

  constructor(private readonly settings: Settings) {
    this.queue = new Queue(this.store, queueOf(settings.writeKey));
    this.sender = this.senderOf(this.queue, settings.writeKey);
    this.moveOldNames();
    if (this.answer) this.sendEarlier();
    // A yes comes just before the visitor's id, without which this tab would make somebody else of them.
    addEventListener("storage", () => (this.known || this.answer === false) && this.heedAnswer());
    addEventListener("online", () => this.sender.awake());
    addEventListener("pageshow", () => this.sender.awake());
    addEventListener("pagehide", () => this.sender.leave());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") this.sender.leave();
    });
  }

  /** Calls that have no 200 yet. */
  get queued(): number {
    return this.queue.length + this.held.length;
  }

  /** Calls lost to the queue's bounds or their own size. */
  get dropped(): number {
    return this.queue.dropped;
  }

  /** Calls that the bridge refused for good. */
  get refused(): number {
    return this.sender.refused;
  }

  page(name?: string, properties?: Values): void {
    this.say("page", { name, properties: { ...place(), ...properties } });
  }

  track(event: string, properties: Values = {}): void {
    this.say("track", { event, properties });
  }

  /** `proof` is the HMAC that the shop's server gives with the login, or Firebase's ID token; without one the
   * claim binds nothing. A token lives an hour, so that only this call carries it. Without a user, as of a page
   * that asks nobody's name, it says something of the visitor. */
  identify(userId: string | number | null | undefined, traits: Values = {}, proof?: string | IdToken): void {
    const proven = typeof proof === "string" ? { userHash: proof } : proof && { idToken: proof.idToken };
    const user = NOBODY.test(String(userId)) ? {} : { userId: String(userId) };
    this.say("identify", { traits, ...user, ...proven });
  }

  /** What the person agrees to, by purpose; it is sent, and decides whether the other calls are. */
  consent(purposes: Purposes): void {
    const { known } = this;
    this.store.put(`${PREFIX}consent`, JSON.stringify({ ...this.answers(), ...purposes }));
    if (this.answer === false) this.forget(known ? purposes : null);
    else this.say("consent", { consent: purposes });
  }

  /** A code by which the shop's app becomes this visitor's; shown in an element, given or by its selector. */
  async link(place?: Element | string): Promise<Link> {
    if (!this.answer) throw new Error("footfall: no link without the visitor's consent");
    const link = await askForLink(this.settings.host, this.settings.writeKey, this.who());
    const element = typeof place === "string" ? document.querySelector(place) : place;
    if (element) show(link, element);
    return link;
  }

  /** The person has logged out: whoever comes next is somebody else. */
  reset(): void {
    this.held = [];
    this.store.remove(`${PREFIX}who`);
  }

  /** Sends what is queued now. */
  flush(): Promise<void> {
    return this.sender.flush();
  }

  /** A call as the stub in the page keeps it before this file has come: `["track", "Order Completed"]`; what is
   * none, such as the `false` of `sold && ["track", …]`, is passed over. */
  push(...calls: unknown[]): void {
    for (const call of calls) {
      const [method, ...given]: unknown[] = Array.isArray(call) ? call : [];
      if (method === "link") void this.link(...(given as [string])).catch(console.warn);
      else if (["page", "track", "identify", "consent", "reset"].includes(method as string))
        (this as unknown as Record<string, (...given: unknown[]) => void>)[method as string]!(...given);
      else console.warn("footfall: no such call", call);
    }
  }

  /** After a no: nothing is left but the answer, and the refusal on its way, if we knew whose it is. */
  private forget(refusal: Purposes | null): void {
    this.held = [];
    for (const key of this.earlierKeys()) new Queue(this.store, queueOf(key)).clear();
    this.queue.clear();
    if (refusal) this.tell("consent", { consent: refusal });
    // Under the write keys' names as well: nobody else reads those any more.
    for (const key of this.store.keys(PREFIX)) if (key.endsWith(":who")) this.store.remove(key);
  }

  /** Who and consent lay under the write key once: a visitor's NO outlives the move, and so does the visitor. */
  private moveOldNames(): void {
    for (const name of ["who", "consent"]) {
      const old = `${PREFIX}${this.settings.writeKey}:${name}`;
      const value = this.store.get(old);
      if (value === null) continue;
      if (this.store.get(PREFIX + name) === null) this.store.put(PREFIX + name, value);
      this.store.remove(old);
    }
  }

  /** What an earlier page left under a write key that has been replaced since goes under that key. */
  private sendEarlier(): void {
    for (const key of this.earlierKeys()) {
      void this.senderOf(new Queue(this.store, queueOf(key)), key).flush();
    }
  }

  private earlierKeys(): Set<string> {
    const parts = this.store.keys(PREFIX).map((key) => key.split(":"));
    const keys = parts.filter(([, key, kind]) => kind === "q" && key !== this.settings.writeKey);
    return new Set(keys.map(([, key]) => key!));
  }

  private senderOf(queue: Queue, writeKey: string): Sender {
    return new Sender(queue, this.settings.host, writeKey, `${PREFIX}${writeKey}:`);
  }

  private say(kind: string, fields: Values): void {
    const call: Held = [kind, kind === "consent" ? fields : { type: kind, context: context(), ...fields }, now()];
    this.heedAnswer();
    if (this.answer) this.tell(...call);
    else if (this.answer === undefined) this.held = [...this.held, call].slice(-MAX_HELD);
  }

  /** The person may have answered in another tab. */
  private heedAnswer(): void {
    if (this.answer === undefined) return;
    const waited = this.held.splice(0);
    if (this.answer) for (const call of waited) this.tell(...call);
  }

  private tell(kind: string, fields: Values, timestamp = now()): void {
    if (fields.userId) this.become(fields.userId as string, fields.userHash as string | undefined);
    const body = { ...fields, ...this.who(), messageId: randomText(16), timestamp };
    if (this.queue.add({ path: kind === "consent" ? "/v1/consent" : BATCH, body })) this.sender.soon();
    else console.warn("footfall: a call that is no JSON, or of more than 32 KB, is not sent", fields);
  }

  /** Asked each time, for another tab may have logged in or out. */
  private who(): Who {
    const stored = parsed<Who>(this.store.get(`${PREFIX}who`));
    return typeof stored?.anonymousId === "string" ? stored : this.keep({ anonymousId: randomText(16) });
  }

  private become(userId: string, userHash: string | undefined): void {
    const before = this.who();
    const same = before.userId === userId;
    // Somebody else who has not logged out: their anonymous id must not go on as this person's.
    const anonymousId = same || before.userId === undefined ? before.anonymousId : randomText(16);
    const proof = userHash ?? (same ? before.userHash : undefined);
    this.keep({ anonymousId, userId, ...(proof === undefined ? {} : { userHash: proof }) });
  }

  private keep(who: Who): Who {
    this.store.put(`${PREFIX}who`, JSON.stringify(who));
    return who;
  }

  private get known(): boolean {
    return this.store.get(`${PREFIX}who`) !== null;
  }

  private answers(): Purposes {
    return parsed<Purposes>(this.store.get(`${PREFIX}consent`)) ?? {};
  }

  /** Whether calls may be sent: yes, no, or not answered yet. */
  private get answer(): boolean | undefined {
    return this.settings.purpose === undefined ? true : this.answers()[this.settings.purpose];
  }
}

function now(): string {
  return new Date().toISOString();
}

function queueOf(writeKey: string): string {
  return `${PREFIX}${writeKey}:q:`;
}

function context(): Values {
  return {
    library: { name: "footfall.js", version: VERSION },
    page: place(),
    campaign: campaign(),
    locale: navigator.language,
    timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
    userAgent: navigator.userAgent,
  };
}

/** Where the person is. The fragment stays here: sites keep secrets in it. */
function place(): Values {
  const { origin, pathname, search } = location;
  const referrer = document.referrer;
  return { url: origin + pathname + search, path: pathname, search, title: document.title, referrer };
}

function campaign(): Values | undefined {
  const found: Values = {};
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (name.startsWith("utm_")) found[name === "utm_campaign" ? "name" : name.slice(4)] = value.slice(0, 200);
  }
  return Object.keys(found).length ? found : undefined;
}

function parsed<T>(text: string | null): T | null {
  try {
    return text === null ? null : (JSON.parse(text) as T);
  } catch {
    return null;
  }
}

function start(tag: HTMLScriptElement): void {
  const { writeKey, host, consent, page } = tag.dataset;
  if (!writeKey) {
    console.error("footfall: the script tag needs data-write-key");
    return;
  }
  const place = window as unknown as { footfall?: unknown };
  const earlier = place.footfall;
  // The tag stands in the page twice; each has a class of its own, so that only its looks tell.
  if (typeof (earlier as Footfall | undefined)?.flush === "function") return;
  const footfall = new Footfall({
    writeKey,
    host: (host ?? new URL(tag.src).origin).replace(/\/$/, ""),
    purpose: consent || undefined,
  });
  place.footfall = footfall;
  if (page !== "manual") footfall.page();
  if (Array.isArray(earlier)) footfall.push(...earlier);
}

if (document.currentScript instanceof HTMLScriptElement) start(document.currentScript);
