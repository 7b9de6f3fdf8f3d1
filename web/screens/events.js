// The list of events, and the page of one: /events, /events/{event id}.
import { Badge, Card, Code, copy, duration, Empty, Field, get, Head, html, Link, Loaded, number, Pages, path, pretty, Select, session, setQuery, Table, Time, useGet, useLoad, usePages } from "../lib/page.js";
import { eventFilters, EventFilters, EventTable } from "../lib/events.js";

/** @param {EventsProps} props */
export default function Events({ parts, query }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${List} query=${query} />`;
}

const RANGES = [["", "any time"], ["-1h", "the last hour"], ["-24h", "the last 24 hours"], ["-7d", "the last 7 days"], ["-30d", "the last 30 days"]];

/** @param {{query: URLSearchParams}} props */
function List({ query }) {
  const load = usePages("/api/query/events", { ...eventFilters(query), date_from: query.get("from") ?? "" }, "events");
  return html`<${Head} title="Events" about="What was sent, newest first. Every event counts once, however often it was sent.">
      <button onClick=${() => copy(session.link(), "Link copied")}>Copy link</button>
      <button onClick=${load.reload}>Refresh</button>
    <//>
    <${EventFilters}><${Field} label="When"><${Select} value=${query.get("from") ?? ""} options=${RANGES} data-testid="filter-from"
      onChange=${(from) => setQuery({ from })} /><//><//>
    <${Pages} of=${load} what="events" empty=${html`<${Empty} title="No events">Nothing fits. Take a filter away, or <${Link} href="/?connect=1">send an event<//>.<//>`}>
      ${(events) => html`<${EventTable} events=${events} label="Events" height=${680} testid="events-table" />`}<//>`;
}

const STATUS = /** @type {Record<string, [string, string]>} */ ({
  stored: ["good", "Stored"], in_log: ["warning", "In the log, not stored yet"], dead_lettered: ["bad", "Dead letter"],
  deleted: ["plain", "Deleted"], not_found: ["warning", "Not found"],
});
const STEPS = /** @type {Record<string, string>} */ ({ received: "Received", logged: "Durable in the log", stored: "Stored", duplicate: "Sent again: a duplicate", deleted: "Deleted", dead_lettered: "Refused: dead letter" });

/** @param {{id: string}} props */
function One({ id }) {
  const trace = useGet(`/api/query/events/${encodeURIComponent(id)}/trace`);
  return html`<${Head} title=${html`Event <code data-testid="event-id"><bdi>${id}</bdi></code>`}>
      <button onClick=${() => copy(id, "Id copied")}>Copy id</button>
      <button onClick=${() => copy(session.link(), "Link copied")}>Copy link</button>
      <button onClick=${trace.reload}>Refresh</button>
    <//>
    <${Loaded} of=${trace} what="the event">${(found) => html`<${Traced} trace=${found} />`}<//>`;
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
      <${Timeline} trace=${trace} />
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
    <${Loaded} of=${found}>${(event) => html`
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

/** Webhooks asked for one event, at most. */
const HOOKS_MAX = 20;

/** Who was told of an event. @param {string} id @param {AbortSignal} signal */
async function toldOf(id, signal) {
  const { webhooks } = await get("/api/webhooks", {}, { signal });
  const each = webhooks.slice(0, HOOKS_MAX).map(async (/** @type {any} */ hook) => {
    const { deliveries } = await get(`/api/webhooks/${encodeURIComponent(hook.id)}/deliveries`, { about: id, limit: 20 }, { signal });
    return deliveries.map((/** @type {any} */ one) => ({ ...one, hook }));
  });
  return (await Promise.all(each)).flat().sort((one, other) => one.created_at.localeCompare(other.created_at));
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

/** Its way: into the log and the store, past the meters, out to webhooks. @param {{trace: any}} props */
function Timeline({ trace }) {
  const { event_id: id, status, steps, backlog } = trace;
  const meters = useLoad(async (signal) => (status === "stored" ? (await get("/v1/events/lookup", { id }, { signal })).meters : []), [id, status]);
  const told = useLoad(async (signal) => (session.role() === "owner" ? toldOf(id, signal) : []), [id, status]);
  const first = new Date(steps[0]?.at).getTime();
  const step = (/** @type {string} */ name, /** @type {any} */ title, /** @type {any} */ at, /** @type {any} */ detail) => html`<li class=${name} data-step=${name}>
    <strong>${title}</strong> ${at ? html`<span class="muted small"><${Time} at=${at} millis />${at === steps[0]?.at ? "" : ` · +${duration((new Date(at).getTime() - first) / 1000)}`}</span>` : null}
    <div class="small">${detail}</div></li>`;
  return html`<${Card} title="What became of it">
    ${steps.length === 0 ? html`<p class="muted">Nothing is known of this id.</p>` : null}
    <ol class="timeline" data-testid="timeline">${steps.map((/** @type {any} */ one) => step(one.step, STEPS[one.step] ?? one.step, one.at, html`<bdi>${one.detail}</bdi>`))}
      ${(meters.data ?? []).map((/** @type {any} */ one) => step(one.matched ? "counted" : "uncounted",
        html`${one.matched ? "Counted by" : "Not counted by"} <${Link} href=${path(["usage", "meters", one.meter_id])}><bdi>${one.name}</bdi><//>`, null,
        one.matched ? html`as ${one.quantity === null ? "one more" : number(one.quantity)}` : html`<bdi>${because(one.why)}</bdi>`))}
      ${(told.data ?? []).map((one) => step("told", html`Told: <code>${one.event_name}</code>`, one.created_at,
        html`<${Link} href=${path(["webhooks", one.hook.id])}><bdi>${one.hook.url}</bdi><//> <${Badge} kind=${one.state === "delivered" ? "good" : one.state === "dead" ? "bad" : "warning"}>${one.state}<//>`))}
    </ol>
    ${[meters, told].map((load, index) => (load.data ? null : html`<${Loaded} key=${index} of=${load} />`))}
    ${backlog ? html`<p class="muted small">The store is ${number(backlog.lag)} records behind the log${backlog.looked_through ? "" : "; not all of them were looked through"}.</p>` : html`<p class="muted small">The log does not answer, so what waits in it is not known.</p>`}
  <//>`;
}

/** @param {{letters: any[]}} props */
function Letters({ letters }) {
  return html`<${Card} title="Dead letters">
    <${Table} label="Dead letters of this event" rows=${letters} columns=${[
      { key: "error_kind", title: "Reason", as: "code" },
      { key: "error_message", title: "Message" },
      { key: "status", title: "State", cell: (one) => one.status ?? "–" },
      { key: "id", title: "", cell: (one) => session.role() === "owner" ? html`<${Link} href=${path(["dead-letters", one.id])}>Open<//>` : one.id },
    ]} /><//>`;
}

/** @param {{rows: any[]}} props */
function Versions({ rows }) {
  return html`<${Card} title="Every row that is stored of it">
    <${Table} label="Rows" rows=${rows} columns=${[
      { key: "version", title: "Version", right: true, cell: (one) => String(one.version) },
      { key: "event", title: "Event" },
      { key: "timestamp", title: "Happened", as: "millis" },
      { key: "ingested_at", title: "Stored", as: "millis" },
      { key: "counts", title: "Counts", cell: (one) => (one.is_deleted ? "deleted" : one.counts ? "yes" : "replaced") },
    ]} /><//>`;
}
