// The list of events, and the page of one: /events, /events/{event id}.
import { get } from "../lib/api.js";
import { eventFilters, EventFilters, EventTable } from "../lib/events.js";
import { duration, number, Time } from "../lib/format.js";
import { pretty } from "../lib/json.js";
import { Empty, Loaded, useLoad } from "../lib/load.js";
import { Badge, Card, Code, copy, Field, Head, Select } from "../lib/parts.js";
import { Link, path, setQuery } from "../lib/router.js";
import { session } from "../lib/session.js";
import { Table } from "../lib/table.js";
import { html, useState } from "../lib/ui.js";

/** @param {{parts: string[], query: URLSearchParams}} props */
export default function Events({ parts, query }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${List} query=${query} />`;
}

const RANGES = [["", "any time"], ["-1h", "the last hour"], ["-24h", "the last 24 hours"], ["-7d", "the last 7 days"], ["-30d", "the last 30 days"]];

/** @param {{query: URLSearchParams}} props */
function List({ query }) {
  const filters = { ...eventFilters(query), date_from: query.get("from") ?? "" };
  const asked = JSON.stringify(filters);
  const [more, setMore] = useState(/** @type {{of: string, events: any[], cursor: string | null} | null} */ (null));
  const first = useLoad((signal) => get("/api/query/events", { ...filters, limit: 100 }, { signal }), [asked]);
  const mine = more && more.of === `${asked} ${first.at}` ? more : null;
  const next = async (/** @type {any} */ page) => {
    const cursor = mine ? mine.cursor : page.next_cursor;
    const found = await get("/api/query/events", { ...filters, limit: 500, cursor });
    setMore({ of: `${asked} ${first.at}`, events: [...(mine?.events ?? []), ...found.events], cursor: found.next_cursor });
  };
  return html`<${Head} title="Events" about="What was sent, newest first. Every event counts once, however often it was sent.">
      <button onClick=${() => copy(session.link(), "Link copied")}>Copy link</button>
      <button onClick=${first.reload}>Refresh</button>
    <//>
    <${EventFilters}><${Field} label="When"><${Select} value=${query.get("from") ?? ""} options=${RANGES} data-testid="filter-from"
      onChange=${(/** @type {string} */ from) => setQuery({ from })} /><//><//>
    <${Loaded} of=${first} what="events">${(/** @type {any} */ page) => {
      const events = [...page.events, ...(mine?.events ?? [])];
      const cursor = mine ? mine.cursor : page.next_cursor;
      if (events.length === 0) return html`<${Empty} title="No events">Nothing fits. Take a filter away, or <${Link} href="/?connect=1">send an event<//>.<//>`;
      return html`<${EventTable} events=${events} label="Events" height=${680} testid="events-table" />
        <p class="muted">${number(events.length)} events shown${cursor ? html` · <button class="small" onClick=${() => next(page)} data-testid="more">Show more</button>` : ", all of them"}</p>`;
    }}<//>`;
}

const STATUS = /** @type {Record<string, [string, string]>} */ ({
  stored: ["good", "Stored"], in_log: ["warning", "In the log, not stored yet"], dead_lettered: ["bad", "Dead letter"],
  deleted: ["plain", "Deleted"], not_found: ["warning", "Not found"],
});
const STEPS = /** @type {Record<string, string>} */ ({ received: "Received", logged: "Durable in the log", stored: "Stored", duplicate: "Sent again: a duplicate", deleted: "Deleted", dead_lettered: "Refused: dead letter" });

/** @param {{id: string}} props */
function One({ id }) {
  const trace = useLoad((signal) => get(`/api/query/events/${encodeURIComponent(id)}/trace`, {}, { signal }), [id]);
  return html`<${Head} title=${html`Event <code data-testid="event-id"><bdi>${id}</bdi></code>`}>
      <button onClick=${() => copy(id, "Id copied")}>Copy id</button>
      <button onClick=${() => copy(session.link(), "Link copied")}>Copy link</button>
      <button onClick=${trace.reload}>Refresh</button>
    <//>
    <${Loaded} of=${trace} what="the event">${(/** @type {any} */ found) => html`<${Traced} trace=${found} />`}<//>`;
}

/** @param {{trace: any}} props */
function Traced({ trace }) {
  const [kind, words] = STATUS[trace.status] ?? ["plain", trace.status];
  const counts = trace.rows.filter((/** @type {any} */ row) => row.counts && !row.is_deleted);
  return html`<div class="note ${kind === "good" ? "good" : kind === "bad" || kind === "warning" ? "warning" : ""}" data-testid="trace-status" data-status=${trace.status}>
      <${Badge} kind=${kind}>${words}<//> ${trace.message}
    </div>
    <div class="split">
      <div>
        ${counts.map((/** @type {any} */ row) => html`<${Fields} key=${`${row.event} ${row.distinct_id} ${row.timestamp}`} id=${trace.event_id} row=${row} />`)}
        ${trace.dead_letters.length > 0 ? html`<${Letters} letters=${trace.dead_letters} />` : null}
        ${trace.rows.length > counts.length ? html`<${Versions} rows=${trace.rows} />` : null}
      </div>
      <div><${Timeline} trace=${trace} />
        ${trace.status === "stored" ? html`<${Meters} id=${trace.event_id} />` : null}
        ${session.role() === "owner" ? html`<${Told} id=${trace.event_id} />` : null}</div>
    </div>`;
}

/** All fields of the stored event. @param {{id: string, row: any}} props */
function Fields({ id, row }) {
  const moment = row.timestamp;
  const found = useLoad(
    async (signal) => {
      const { events } = await get("/api/query/events", { event: row.event, distinct_id: row.distinct_id, date_from: moment, date_to: moment, limit: 500 }, { signal });
      return events.find((/** @type {any} */ one) => one.event_id === id) ?? null;
    },
    [id, row.event, row.distinct_id, moment],
  );
  return html`<${Card} title=${html`<bdi>${row.event}</bdi>`} actions=${html`<${Link} href=${path(["events"], { event: row.event })}>All of this name<//>`}>
    <${Loaded} of=${found}>${(/** @type {any} */ event) => html`
      <dl class="facts">
        <dt>Person</dt><dd><${Link} href=${path(["persons"], { distinct_id: row.distinct_id })}><bdi>${row.distinct_id}</bdi><//></dd>
        <dt>Happened</dt><dd><${Time} at=${row.timestamp} millis /></dd>
        <dt>Received</dt><dd><${Time} at=${row.received_at} millis /></dd>
        <dt>Stored</dt><dd><${Time} at=${row.ingested_at} millis /></dd>
        ${["session_id", "source", "customer_id"].map((name) => event?.[name] ? html`<dt key=${name}>${{ session_id: "Session", source: "Source", customer_id: "Customer" }[name]}</dt><dd key=${`${name} value`}><bdi>${event[name]}</bdi></dd>` : null)}
        <dt>Log</dt><dd><code>${row.log.topic}</code>, partition ${row.log.partition}, offset ${row.log.offset}</dd>
        <dt>Version</dt><dd class="number">${String(row.version)}</dd>
      </dl>
      <h3 class="spaced">Properties</h3>
      ${event ? html`<${Properties} of=${event.properties} /><${Code} text=${pretty(event.properties)} label="Properties as JSON" />` : html`<p class="muted">The event was deleted or amended in the meantime: refresh.</p>`}
    `}<//>
  <//>`;
}

/** Which meters count it, and why the others do not. @param {{id: string}} props */
function Meters({ id }) {
  const found = useLoad(async (signal) => (await get("/v1/events/lookup", { id }, { signal })).meters, [id]);
  return html`<${Card} title="Meters"><${Loaded} of=${found}>${(/** @type {any[]} */ meters) => meters.length === 0
    ? html`<p class="muted">This environment has no meters.</p>`
    : html`<${Table} label="Meters and this event" testid="event-meters" rows=${meters} columns=${[
        { key: "name", title: "Meter", cell: (/** @type {any} */ one) => html`<bdi>${one.name}</bdi>` },
        { key: "matched", title: "Counts it", cell: (/** @type {any} */ one) => html`<${Badge} kind=${one.matched ? "good" : "plain"}>${one.matched ? "yes" : "no"}<//>` },
        { key: "quantity", title: "As", align: "right", cell: (/** @type {any} */ one) => (one.quantity === null ? "–" : number(one.quantity)) },
        { key: "why", title: "Because", cell: (/** @type {any} */ one) => html`<bdi>${because(one.why)}</bdi>` },
      ]} />`}<//><//>`;
}

/** Webhooks asked for one event, at most. */
const HOOKS_MAX = 20;

/** Who was told of it. @param {{id: string}} props */
function Told({ id }) {
  const load = useLoad(async (signal) => {
    const { webhooks } = await get("/api/webhooks", {}, { signal });
    const each = webhooks.slice(0, HOOKS_MAX).map(async (/** @type {any} */ hook) => {
      const { deliveries } = await get(`/api/webhooks/${encodeURIComponent(hook.id)}/deliveries`, { about: id, limit: 20 }, { signal });
      return deliveries.map((/** @type {any} */ one) => ({ ...one, hook }));
    });
    return (await Promise.all(each)).flat();
  }, [id]);
  return html`<${Card} title="Webhooks"><${Loaded} of=${load}>${(/** @type {any[]} */ told) => told.length === 0
    ? html`<p class="muted">No webhook was told of this event.</p>`
    : html`<${Table} label="Webhooks that were told" testid="event-webhooks" rows=${told} columns=${[
        { key: "created_at", title: "When", cell: (/** @type {any} */ one) => html`<${Time} at=${one.created_at} />` },
        { key: "event_name", title: "Told of", cell: (/** @type {any} */ one) => html`<code>${one.event_name}</code>` },
        { key: "hook", title: "Whom", cell: (/** @type {any} */ one) => html`<${Link} class="clip" href=${path(["webhooks", one.hook.id])}><bdi>${one.hook.url}</bdi><//>` },
        { key: "state", title: "State", cell: (/** @type {any} */ one) => html`<${Badge} kind=${one.state === "delivered" ? "good" : one.state === "dead" ? "bad" : "warning"}>${one.state}<//>` },
      ]} />`}<//><//>`;
}

/** @param {any} why */
function because(why) {
  if (!why) return "";
  if (why.reason === "event_name") return `it counts ${why.wanted}`;
  if (why.reason === "filter") return `${why.key} is ${why.given ?? "absent"}, and it counts ${why.wanted.join(", ")}`;
  return why.reason;
}

/** Properties, one a line. @param {{of: any}} props */
function Properties({ of }) {
  const rows = Object.entries(of ?? {});
  if (rows.length === 0) return html`<p class="muted">It has none.</p>`;
  return html`<dl class="facts properties" data-testid="properties">${rows.slice(0, 200).map(([key, value]) => {
    const text = typeof value === "string" ? value : pretty(value);
    return html`<dt key=${key}><bdi>${key}</bdi></dt><dd key=${`${key} value`}><bdi>${text.length > 500 ? `${text.slice(0, 500)}… (${number(text.length)} characters, whole by Copy below)` : text}</bdi></dd>`;
  })}</dl>`;
}

/** @param {{trace: any}} props */
function Timeline({ trace }) {
  const first = trace.steps[0]?.at;
  return html`<${Card} title="What became of it">
    ${trace.steps.length === 0 ? html`<p class="muted">Nothing is known of this id.</p>` : null}
    <ol class="timeline" data-testid="timeline">${trace.steps.map((/** @type {any} */ step, /** @type {number} */ index) => {
      const after = (new Date(step.at).getTime() - new Date(first).getTime()) / 1000;
      return html`<li key=${index} class=${step.step} data-step=${step.step}>
        <strong>${STEPS[step.step] ?? step.step}</strong> <span class="muted small"><${Time} at=${step.at} millis />${index > 0 ? ` · +${duration(after)}` : ""}</span>
        <div class="small"><bdi>${step.detail}</bdi></div>
      </li>`;
    })}</ol>
    ${trace.backlog ? html`<p class="muted small">The store is ${number(trace.backlog.lag)} records behind the log${trace.backlog.looked_through ? "" : "; not all of them were looked through"}.</p>` : html`<p class="muted small">The log does not answer, so what waits in it is not known.</p>`}
  <//>`;
}

/** @param {{letters: any[]}} props */
function Letters({ letters }) {
  return html`<${Card} title="Dead letters">
    <${Table} label="Dead letters of this event" rows=${letters} columns=${[
      { key: "error_kind", title: "Reason", cell: (/** @type {any} */ one) => html`<code>${one.error_kind}</code>` },
      { key: "error_message", title: "Message", cell: (/** @type {any} */ one) => html`<bdi>${one.error_message}</bdi>` },
      { key: "status", title: "State", cell: (/** @type {any} */ one) => one.status ?? "–" },
      { key: "id", title: "", cell: (/** @type {any} */ one) => session.role() === "owner" ? html`<${Link} href=${path(["dead-letters", one.id])}>Open<//>` : one.id },
    ]} /><//>`;
}

/** @param {{rows: any[]}} props */
function Versions({ rows }) {
  return html`<${Card} title="Every row that is stored of it">
    <${Table} label="Rows" rows=${rows} columns=${[
      { key: "version", title: "Version", align: "right", cell: (/** @type {any} */ one) => String(one.version) },
      { key: "event", title: "Event", cell: (/** @type {any} */ one) => html`<bdi>${one.event}</bdi>` },
      { key: "timestamp", title: "Happened", cell: (/** @type {any} */ one) => html`<${Time} at=${one.timestamp} millis />` },
      { key: "ingested_at", title: "Stored", cell: (/** @type {any} */ one) => html`<${Time} at=${one.ingested_at} millis />` },
      { key: "counts", title: "Counts", cell: (/** @type {any} */ one) => (one.is_deleted ? "deleted" : one.counts ? "yes" : "replaced") },
    ]} /><//>`;
}
