// A link token: what a visitor shows to the shop's app so that both are known as one person.
import type { Values } from "./queue";

/** The deep link, the same as a QR code (SVG), and until when it is good (unix milliseconds). */
export interface Link {
  token: string;
  url: string;
  svg: string;
  expiresAt: number;
}

const REQUEST_MS = 15_000; // nobody waits longer for a code

/** Asks the bridge for a link; rejects with its reason. */
export async function askForLink(host: string, writeKey: string, who: object): Promise<Link> {
  const response = await fetch(`${host}/v1/link`, {
    method: "POST",
    body: JSON.stringify({ ...who, writeKey }), // as text/plain, so that no browser asks for permission first
    signal: AbortSignal.timeout?.(REQUEST_MS) ?? null,
    credentials: "omit",
  });
  const answer = (await response.json()) as Link & Values;
  if (!response.ok) throw new Error(`footfall: no link: ${String(answer.message ?? response.status)}`);
  return { token: answer.token, url: answer.url, svg: answer.svg, expiresAt: answer.expiresAt };
}

/** Puts the code into an element, as a picture that opens the app where there is one. */
export function show(link: Link, place: Element): void {
  const picture = document.createElement("img");
  picture.src = `data:image/svg+xml,${encodeURIComponent(withNamespace(link.svg))}`;
  picture.alt = link.url;
  picture.style.maxWidth = "100%";
  const anchor = document.createElement("a");
  anchor.href = link.url;
  anchor.append(picture);
  place.replaceChildren(anchor);
}

/** Inside a page SVG needs no name for its language; as a picture it does. */
function withNamespace(svg: string): string {
  return svg.includes("xmlns") ? svg : svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"');
}
