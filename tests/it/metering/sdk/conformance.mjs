// Every events method of the TypeScript SDK, unmodified, against a real server. Prints {method: "ok" or what was wrong}.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, url, key, meterId, prefix] = process.argv.slice(2);
const require = createRequire(pathToFileURL(folder + "/index.js"));
const sdk = await import(pathToFileURL(require.resolve("@flexprice/sdk")).href);
const Client = sdk.Flexprice ?? sdk.FlexPrice;
const client = new Client({ serverURL: url + "/v1", apiKeyAuth: key });
const results = {};

function check(name, condition, seen) {
  if (!condition) throw new Error(`${name}: ${JSON.stringify(seen)}`);
}

async function poll(ask, good) {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const answer = await ask();
    if (good(answer)) return answer;
    if (performance.now() > deadline) throw new Error(`not within a minute: ${JSON.stringify(answer)}`);
  }
}

const event = (n) => ({
  eventName: "sdk.call",
  externalCustomerId: prefix,
  eventId: `${prefix}/${n}`,
  properties: { tokens: "0.1", region: "eu" },
  source: "sdk",
});

const methods = {
  async ingestEvent() {
    const answer = await client.events.ingestEvent(event(0));
    check("ingest", answer.message === "Event accepted for processing" && answer.event_id === `${prefix}/0`, answer);
  },
  async ingestEventsBulk() {
    const answer = await client.events.ingestEventsBulk({ events: [1, 2, 3, 4, 5, 6, 7, 8, 9].map(event) });
    check("bulk", answer.accepted === "9", answer);
  },
  async listRawEvents() {
    const ask = () => client.events.listRawEvents({ externalCustomerId: prefix, pageSize: 10, order: "asc" });
    const page = await poll(ask, (page) => page.events.length === 10);
    check("list", page.hasMore === false && page.events[0].properties.tokens === "0.1", page);
    const empty = await client.events.listRawEvents({ externalCustomerId: "nobody" });
    check("empty", empty.events.length === 0, empty);
  },
  async getUsageStatistics() {
    const asked = { eventName: "sdk.call", aggregationType: "SUM", propertyName: "tokens", externalCustomerId: prefix };
    const answer = await client.events.getUsageStatistics({ ...asked, windowSize: "DAY" });
    check("usage", answer.value === 1 && answer.results.length >= 1, answer);
    const nothing = await client.events.getUsageStatistics({ ...asked, eventName: "sdk.none" });
    check("nothing", nothing.value === 0 && nothing.results.length === 0, nothing);
  },
  async getUsageByMeter() {
    const answer = await client.events.getUsageByMeter({ meterId, externalCustomerId: prefix });
    check("meter", answer.value === 1, answer);
  },
  async getUsageAnalytics() {
    const answer = await client.events.getUsageAnalytics({ externalCustomerId: prefix, windowSize: "DAY" });
    check("analytics", answer.items[0].totalUsage === "1" && answer.items[0].points[0].usage === "1", answer);
  },
  async getEvent() {
    const answer = await client.events.getEvent(`${prefix}/3`);
    check("event", answer.status === "processed" && answer.event.id === `${prefix}/3`, answer);
  },
  async getHuggingfaceInferenceData() {
    // This SDK's method has no parameters: it asks about no request.
    const answer = await client.events.getHuggingfaceInferenceData();
    check("costs", answer.requests?.length === 0, answer);
  },
  async errorsAreParsed() {
    try {
      await client.events.getUsageStatistics({ eventName: "x", aggregationType: "SUM" });
    } catch (error) {
      check("error", String(error.error?.message ?? error.message).includes("property_name"), String(error));
      return;
    }
    throw new Error("no error");
  },
};

for (const [name, run] of Object.entries(methods)) {
  try {
    await run();
    results[name] = "ok";
  } catch (error) {
    results[name] = `${error.name}: ${error.message} ${error.cause ?? ""}`.slice(0, 2000);
  }
}
console.log(JSON.stringify(results));
