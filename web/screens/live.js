// Events as they arrive.
import { Badge, Empty, Fault, get, Head, html, Link, number, useCallback, useShortcut, useState } from "../lib/page.js";
import { eventFilters, EventFilters, EventTable } from "../lib/events.js";
import { useStream } from "../lib/stream.js";

const KEPT = 500;

/** @param {{query: URLSearchParams}} props */
export default function Live({ query }) {
  const [paused, setPaused] = useState(false);
  const filters = eventFilters(query);
  const onOpen = async (/** @type {AbortSignal} */ signal) => (await get("/api/query/events", { ...filters, limit: 50 }, { signal })).events;
  const stream = useStream(filters, { paused, keep: KEPT, onOpen });
  useShortcut("p", "Live events: pause, go on", useCallback(() => setPaused((now) => !now), []));
  const words = { opening: "connecting", open: "live", paused: "paused", fault: "interrupted" };
  const kinds = { opening: "plain", open: "good", paused: "warning", fault: "bad" };
  return html`<${Head} title="Live events" about="Events as they become visible to every question, newest first.">
      <span role="status" data-testid="live-state" data-state=${stream.state}><${Badge} kind=${kinds[stream.state]}>${words[stream.state]}<//></span>
      <span class="muted number" data-testid="live-arrived">${number(stream.arrived)} arrived</span>
      <button aria-pressed=${paused} onClick=${() => setPaused(!paused)} data-testid="live-pause">${paused ? "Go on" : "Pause"}</button>
      <button onClick=${stream.clear}>Clear</button>
    <//>
    <${EventFilters} />
    <${Fault} error=${stream.error} retry=${stream.clear} />
    ${stream.dropped > 0
      ? html`<div class="note warning" data-testid="live-dropped">${number(stream.dropped)} more events arrived faster than this page shows them. They are stored and counted: narrow the filters to see each.</div>`
      : null}
    ${stream.events.length > 0
      ? html`<${EventTable} events=${stream.events} label="Live events" height=${640} testid="live-table" />`
      : html`<${Empty} title=${stream.state === "open" ? "Waiting for events" : "No events yet"}>
          ${Object.values(filters).some((one) => one.length > 0) ? "Nothing fits these filters yet." : html`Nothing was sent to this environment yet. <${Link} href="/?connect=1">Send a first event<//>`}
        <//>`}`;
}
