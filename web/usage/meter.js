// One meter: its total to the last digit, windows, groups, and the events behind each number.
import { copy, digits, Empty, Fault, get, Head, html, Link, Loaded, Loading, number, path, save, session, Table, Time, useLayoutEffect, useGet, useLoad, useMemo, useRef, useState, zone } from "../lib/page.js";
import { Chart } from "../lib/chart.js";
import { bucketName, utc } from "../insights/buckets.js";
import { curl } from "../insights/share.js";
import { Controls } from "./controls.js";
import { MeterActions } from "./making.js";
import { csv, eventsOf, measures, question, spanOf, stateOf, usage } from "./model.js";

const GROUPS_DRAWN = 10;
const PAGE = 100;

/** What windows are named by on the screen. @param {string} window */
const intervalOf = (window) => (window === "MONTH" ? "month" : window === "DAY" || window === "WEEK" ? "day" : "minute");

/** @param {{id: string, query: URLSearchParams}} props */
export function MeterScreen({ id, query }) {
  const load = useGet(`/v1/meters/${encodeURIComponent(id)}`);
  return html`<${Loaded} of=${load} what="the meter">${(meter) => html`<${Measured} meter=${meter} query=${query} again=${load.reload} />`}<//>`;
}

/** @param {MeasuredProps} props */
function Measured({ meter, query, again }) {
  const raw = stateOf(query, zone.value);
  const state = raw.window === "WHOLE" ? { ...raw, window: "" } : raw.by === "properties." ? { ...raw } : raw;
  const by = state.by === "properties." ? "" : state.by;
  const [now, setNow] = useState(Date.now());
  const span = useMemo(() => spanOf(state, now), [JSON.stringify(state), now]);
  const asked = question(meter.id, { ...state, by }, span);
  const load = useLoad((signal) => usage(asked, signal), [JSON.stringify(asked)]);
  const [drill, setDrill] = useState(/** @type {null | {title: string, list: any, count: number}} */ (null));
  const show = (/** @type {Bucket | null} */ bucket, /** @type {number} */ at) => {
    const { results } = load.data;
    const next = bucket && results.slice(at + 1).find((/** @type {Bucket} */ other) => other.window_size !== bucket.window_size);
    const within = bucket?.window_size ? { start: later(bucket.window_size, span.start), end: state.window ? endOf(bucket, state.window, next, span.end) : span.end } : span;
    const group = bucket && by ? bucket.group[by] ?? "" : undefined;
    const title = [bucket?.window_size ? bucketName(bucket.window_size, intervalOf(state.window), state.zone) : "the whole range", group].filter(Boolean).join(", ");
    setDrill({ title, list: eventsOf(meter, state, within, by, group), count: bucket ? bucket.event_count : load.data.event_count });
  };
  const file = () => {
    const rows = load.data.results.map((/** @type {Bucket} */ bucket) => [{ text: bucket.window_size }, ...(by ? [{ text: bucket.group[by] ?? "" }] : []), { number: bucket.has_value ? bucket.exact_value : "" }, { number: bucket.event_count }]);
    const total = [{ text: "total" }, ...(by ? [{ text: "" }] : []), { number: load.data.has_value ? load.data.exact_value : "" }, { number: load.data.event_count }];
    save(`${meter.name}.csv`, csv(["window", ...(by ? [by] : []), "value", "events"], [...rows, total]));
  };
  return html`
    <${Head} title=${html`<bdi>${meter.name}</bdi>`} about=${html`<bdi>${measures(meter)}</bdi>${meter.filters.length > 0 ? html` where ${meter.filters.map(({ key, values }) => html`<bdi>${key} is ${values.join(" or ")}</bdi> `)}` : null}, version ${meter.version}${meter.status === "archived" ? ", archived" : ""}`}>
      <${Link} href=${path(["usage"])}>All meters<//>
      <button data-testid="refresh" onClick=${() => setNow(Date.now())}>Refresh</button>
      <button data-testid="copy-curl" onClick=${() => copy(curl("/v1/events/usage/meter", asked), "Copied: set FLEXFLOW_KEY to a key with the scope query")}>Copy request</button>
      <button data-testid="csv" disabled=${!load.data} onClick=${file}>CSV</button>
      ${session.role() === "owner" && html`<${MeterActions} meter=${meter} again=${again} />`}
    <//>
    <${Controls} state=${state} windows groups event=${meter.event_name} />
    <${Loaded} of=${load} what="the usage">${(answer) => html`<${Total} meter=${meter} answer=${answer} onShow=${() => show(null, 0)} />
      ${answer.event_count === 0
        ? html`<${Empty} title="No usage in this range">Take a longer range, another customer, or look whether <${Link} href=${path(["events"], { event: meter.event_name })}><bdi>${meter.event_name}</bdi><//> arrives.<//>`
        : html`<${Windows} answer=${answer} state=${state} by=${by} onShow=${show} />`}`}<//>
    ${drill && html`<${EventsPanel} key=${JSON.stringify(drill.list)} meter=${meter} drill=${drill} onClose=${() => setDrill(null)} />`}`;
}

/** A window that begins before the range counts from the range on. @param {string} start @param {string} from */
const later = (start, from) => (Date.parse(start) < Date.parse(from) ? from : start);

const MINUTES = /** @type {Record<string, number>} */ ({ MINUTE: 1, "15MIN": 15, "30MIN": 30, HOUR: 60, "3HOUR": 180, "6HOUR": 360, "12HOUR": 720 });

/** Where a window ends: with the next one that has events, or by its length; with the range at last. @param {Bucket} bucket @param {string} window @param {Bucket | undefined} next @param {string} end */
function endOf(bucket, window, next, end) {
  const minutes = MINUTES[window];
  const start = Date.parse(bucket.window_size);
  // A day is 25 hours long at most, and no event stands between this window's end and the next one that has any.
  const longest = minutes ? minutes * 60_000 : window === "MONTH" ? 32 * 86_400_000 : window === "WEEK" ? 7 * 86_400_000 + 3_600_000 : 25 * 3_600_000;
  const until = Math.min(Date.parse(end), start + longest, next ? Date.parse(next.window_size) : Infinity);
  return new Date(until).toISOString();
}

/** @param {TotalProps} props */
function Total({ meter, answer, onShow }) {
  const lost = [["missing_count", "have no value"], ["not_numeric_count", "have a value that is no number"], ["too_precise_count", "have a value with too many digits"]];
  return html`<section class="card" aria-label="Total" data-testid="total">
    <div class="exact"><bdi data-testid="total-value">${answer.has_value ? digits(answer.exact_value) : "–"}</bdi> <span class="muted small">${meter.unit}</span></div>
    <p class="muted small"><${Time} at=${answer.start_time} /> to <${Time} at=${answer.end_time} /> ·
      <button class="quiet value" data-testid="drill-total" onClick=${onShow}>${number(answer.event_count)} events</button>
      · read from ${answer.read_from === "feature_usage" ? "tracked usage" : "events"}</p>
    ${meter.reset_usage === "NEVER" && html`<p class="muted small">This meter never begins anew: its total counts all of history; the windows are of the range.</p>`}
    ${lost.map(([name, words]) => answer[name ?? ""] > 0 && html`<p class="note warning" role="status"><strong>${number(answer[name ?? ""])}</strong> of the events ${words}: they do not count.</p>`)}
  </section>`;
}

/** @param {WindowsProps} props */
function Windows({ answer, state, by, onShow }) {
  /** @type {Bucket[]} */
  const results = answer.results;
  if (results.length === 0) return null;
  const interval = intervalOf(state.window);
  const named = (/** @type {Bucket} */ bucket) => bucketName(bucket.window_size, interval, state.zone);
  /** @type {Column[]} */
  const columns = [
    ...(state.window ? [{ key: "window", title: "Window", cell: (/** @type {Bucket} */ bucket) => html`<span title=${utc(bucket.window_size, state.zone)}>${named(bucket)}</span>` }] : []),
    ...(by ? [{ key: "group", title: by, cell: (/** @type {Bucket} */ bucket) => html`<bdi>${bucket.group[by] || "(none)"}</bdi>` }] : []),
    { key: "value", title: "Value", right: true, cell: (bucket, at) => html`<button class="quiet value" data-testid="drill" aria-label=${`${bucket.has_value ? digits(bucket.exact_value) : "–"}: show the events`} onClick=${() => onShow(bucket, at)}>${bucket.has_value ? digits(bucket.exact_value) : "–"}</button>` },
    { key: "events", title: "Events", right: true, cell: (bucket) => number(bucket.event_count) },
  ];
  return html`<div class="split answer">
    <section class="card" aria-label="Picture">${state.window ? html`<${Picture} results=${results} by=${by} named=${named} />` : html`<p class="muted">Choose a window to see usage over time.</p>`}</section>
    <${Table} label="Usage by window" columns=${columns} rows=${results} testid="usage-table" height=${480} />
  </div>`;
}

/** Lines for the eye; the table has the digits. @param {{results: Bucket[], by: string, named: (bucket: Bucket) => string}} props */
function Picture({ results, by, named }) {
  const windows = [...new Map(results.map((bucket) => [bucket.window_size, named(bucket)]))];
  const groups = [...new Set(results.map((bucket) => (by ? (bucket.group[by] ?? "") : "")))];
  const drawn = groups.slice(0, GROUPS_DRAWN);
  const series = drawn.map((group) => {
    const values = new Map(results.filter((bucket) => !by || (bucket.group[by] ?? "") === group).map((bucket) => [bucket.window_size, Number(bucket.exact_value)]));
    return { label: group || "Usage", values: windows.map(([start]) => values.get(start) ?? 0) };
  });
  return html`<${Chart} label="Usage over time" kind=${series.length === 1 ? "bar" : "line"} x=${windows.map(([, name]) => name)} series=${series} height=${320} />
    ${groups.length > GROUPS_DRAWN && html`<p class="muted small">The picture has the first ${GROUPS_DRAWN} of ${number(groups.length)} groups; the table has all.</p>`}`;
}

/** @param {EventsPanelProps} props */
function EventsPanel({ meter, drill, onClose }) {
  const [before, setBefore] = useState(/** @type {{events: any[], cursor: string | null}} */ ({ events: [], cursor: null }));
  const panel = useRef(/** @type {HTMLElement | null} */ (null));
  const { cursor } = before;
  const load = useLoad(async (signal) => ({ cursor, page: await get("/api/query/events", { ...drill.list, limit: PAGE, cursor: cursor ?? "" }, { signal }) }), [cursor]);
  useLayoutEffect(() => panel.current?.focus(), []);
  const page = load.data?.cursor === cursor ? load.data.page : undefined;
  const events = [...before.events, ...(page?.events ?? [])];
  const key = meter.aggregation?.field;
  const said = (/** @type {any} */ event) => (key && event.properties[key] !== undefined ? html`<code>${key} = ${typeof event.properties[key] === "string" ? `"${event.properties[key]}"` : String(event.properties[key])}</code>` : null);
  return html`<aside class="people" tabindex="-1" ref=${panel} aria-label=${`Events: ${drill.title}`} data-testid="events-panel" onKeyDown=${(event) => event.key === "Escape" && onClose()}>
    <header><div><h2>Events</h2><bdi class="muted">${drill.title}</bdi><p class="muted small"><span data-testid="listed">${number(events.length)}</span> of ${number(drill.count)} shown, newest first</p></div><button class="quiet icon" aria-label="Close the events" onClick=${onClose}>×</button></header>
    ${meter.version > 1 && html`<p class="muted small">The meter was changed: what is listed fits its newest version, from <${Time} at=${meter.effective_from} /> on.</p>`}
    <${Fault} error=${load.error} retry=${load.reload} />
    ${events.length === 0 && load.loading && html`<${Loading} what="the events" />`}
    <ul class="list">${events.map((event) => html`<li key=${event.event_id}>
      <${Link} href=${path(["events", event.event_id])}><${Time} at=${event.timestamp} millis /><//> <bdi>${event.distinct_id}</bdi> ${said(event)}</li>`)}</ul>
    ${page?.next_cursor && html`<button data-testid="more-events" disabled=${load.loading} onClick=${() => setBefore({ events, cursor: page.next_cursor })}>More</button>`}
  </aside>`;
}

