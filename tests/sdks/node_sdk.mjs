// Plays calls through Segment's Node SDK, unmodified: a play as JSON on stdin, what became of it on stdout.
import { readFileSync } from "node:fs";
import { Analytics } from "@segment/analytics-node";

const play = JSON.parse(readFileSync(0, "utf-8"));
const seen = { attempts: 0, statuses: [], batches: [], failures: [], messageIds: [] };
const analytics = new Analytics({ writeKey: play.writeKey, host: play.host, ...play.settings });

analytics.on("http_request", (request) => {
  seen.attempts += 1;
  seen.batches.push(JSON.parse(request.body).batch.length);
});
analytics.on("http_response", (response) => seen.statuses.push(response.status));
analytics.on("error", (error) => seen.failures.push(String(error.reason ?? error.code)));

for (const [method, call] of play.calls) {
  analytics[method](call, (_error, context) => seen.messageIds.push(context.event.messageId));
}
await analytics.closeAndFlush({ timeout: play.withinMs ?? 30_000 });
process.stdout.write(JSON.stringify(seen));
