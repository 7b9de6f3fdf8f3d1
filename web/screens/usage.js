// Usage: what meters count, in all, by customer, by feature. /usage/meters/<id> is one meter, /usage/customers/<id> one
// customer.
import { get, post } from "../lib/api.js";
import { digits, number, zone } from "../lib/format.js";
import { Empty, Loaded, useLoad } from "../lib/load.js";
import { Code, Head, Tabs, save } from "../lib/parts.js";
import { Link, path } from "../lib/router.js";
import { Table } from "../lib/table.js";
import { html, useMemo, useState } from "../lib/ui.js";
import { Controls } from "../usage/controls.js";
import { MeterScreen } from "../usage/meter.js";
import { csv, each, measures, question, spanOf, stateOf, usage } from "../usage/model.js";

/** @typedef {import("../usage/model.js").Meter} Meter */
/** @typedef {import("../usage/model.js").State} State */
/** @typedef {import("../usage/model.js").Span} Span */

/** Meters whose totals are asked on one page. */
const METERS_MAX = 50;

/** @param {{parts: string[], query: URLSearchParams}} props */
export default function Usage({ parts, query }) {
  const [tab = "meters", id] = parts;
  if (tab === "meters" && id) return html`<${MeterScreen} key=${id} id=${id} query=${query} />`;
  return html`<${Overview} tab=${tab} customer=${tab === "customers" ? (id ?? "") : ""} query=${query} />`;
}

/** The address of a tab with the range of this one. @param {string[]} parts @param {State} state @param {Record<string, string>} [more] */
function kept(parts, state, more) {
  const { range, from, to } = state;
  return path(["usage", ...parts], { range, ...(range === "own" ? { from, to } : {}), zone: state.zone, ...more });
}

/** @param {{tab: string, customer: string, query: URLSearchParams}} props */
function Overview({ tab, customer, query }) {
  const state = { ...stateOf(query, zone.value), customer };
  const [now, setNow] = useState(Date.now());
  const span = useMemo(() => spanOf(state, now), [JSON.stringify(state), now]);
  const meters = useLoad((signal) => get("/v1/meters", { limit: METERS_MAX }, { signal }), []);
  const shown = { meters: Meters, customers: customer ? Meters : Customers, features: Features }[tab] ?? Meters;
  const title = customer ? html`Usage of <bdi>${customer}</bdi>` : "Usage";
  return html`
    <${Head} title=${title} about="Totals to the last digit, as they are billed.">
      ${customer && html`<${Link} href=${kept(["customers"], state)}>All customers<//>`}
      <button data-testid="refresh" onClick=${() => setNow(Date.now())}>Refresh</button>
    <//>
    <${Tabs} label="Usage by" current=${tab} items=${[["meters", "Meters", kept(["meters"], state)], ["customers", "Customers", kept(["customers"], state)], ["features", "Features", kept(["features"], state)]]} />
    <${Controls} state=${state} />
    <${Loaded} of=${meters} what="the meters">${(/** @type {any} */ data) =>
      data.items.length === 0 ? html`<${NoMeter} />` : html`<${shown} meters=${data.items} more=${data.pagination.total - data.items.length} state=${state} span=${span} />`}<//>`;
}

/** No meter yet: how one is made. */
function NoMeter() {
  const body = JSON.stringify({ name: "Tokens", event_name: "api.request", aggregation: { type: "SUM", field: "tokens" }, unit: "tokens" });
  return html`<${Empty} title="No meter yet">A meter says what of your events is counted. A key with the scope admin makes one; it counts the events that are there already, too.
    <${Code} label="A request that makes a meter" text=${`curl '${location.origin}/v1/meters' -H "X-API-Key: $FLEXFLOW_KEY" -H 'Content-Type: application/json' -d '${body}'`} /><//>`;
}

/** @typedef {{meters: Meter[], more: number, state: State, span: Span}} TabProps */

/** @param {{more: number}} props */
const More = ({ more }) => (more > 0 ? html`<p class="muted small">${number(more)} more meters are not shown here; the API lists them.</p>` : null);

/** @param {TabProps} props */
function Meters({ meters, more, state, span }) {
  const load = useLoad((signal) => each(meters, (meter) => usage(question(meter.id, state, span, { window: "", by: "" }), signal)), [JSON.stringify([meters.map(({ id }) => id), state.customer, span])]);
  const href = (/** @type {Meter} */ meter) => kept(["meters", meter.id], state, state.customer ? { customer: state.customer } : {});
  return html`<${Loaded} of=${load} what="the totals">${(/** @type {any[]} */ answers) => {
    const rows = meters.map((meter, at) => ({ meter, answer: answers[at] }));
    const columns = [
      { key: "name", title: "Meter", cell: (/** @type {any} */ row) => html`<${Link} href=${href(row.meter)}><bdi>${row.meter.name}</bdi><//>` },
      { key: "measures", title: "Counts", cell: (/** @type {any} */ row) => html`<bdi class="muted">${measures(row.meter)}</bdi>` },
      { key: "total", title: "Total", align: /** @type {const} */ ("right"), cell: (/** @type {any} */ row) => html`<span data-testid="meter-total">${row.answer.has_value ? digits(row.answer.exact_value) : "–"}</span>` },
      { key: "unit", title: "Unit", cell: (/** @type {any} */ row) => html`<bdi>${row.meter.unit}</bdi>` },
      { key: "events", title: "Events", align: /** @type {const} */ ("right"), cell: (/** @type {any} */ row) => number(row.answer.event_count) },
    ];
    const file = () => save("meters.csv", csv(["meter", "total", "unit", "events"], rows.map(({ meter, answer }) => [{ text: meter.name }, { number: answer.has_value ? answer.exact_value : "" }, { text: meter.unit ?? "" }, { number: answer.event_count }])));
    return html`<div class="row"><button data-testid="csv" onClick=${file}>CSV</button></div><${Table} label="Totals by meter" columns=${columns} rows=${rows} rowKey=${(/** @type {any} */ row) => row.meter.id} testid="meters" /><${More} more=${more} />`;
  }}<//>`;
}

/** @param {TabProps} props */
function Customers({ meters, more, state, span }) {
  const load = useLoad((signal) => each(meters, (meter) => usage(question(meter.id, state, span, { window: "", by: "external_customer_id" }), signal)), [JSON.stringify([meters.map(({ id }) => id), span])]);
  return html`<${Loaded} of=${load} what="the customers">${(/** @type {any[]} */ answers) => {
    /** @type {Map<string, any[]>} */
    const customers = new Map();
    answers.forEach((answer, at) => {
      for (const bucket of answer.results) {
        const name = bucket.group.external_customer_id ?? "";
        const cells = customers.get(name) ?? new Array(meters.length).fill(null);
        cells[at] = bucket;
        customers.set(name, cells);
      }
    });
    const rows = [...customers].sort(([a], [b]) => a.localeCompare(b)).map(([name, cells]) => ({ name, cells }));
    if (rows.length === 0) return html`<${Empty} title="No customer has usage in this range">Take a longer range.<//>`;
    const columns = [
      { key: "name", title: "Customer", cell: (/** @type {any} */ row) => html`<${Link} href=${kept(["customers", row.name], state)}><bdi>${row.name || "(none)"}</bdi><//>` },
      ...meters.map((meter, at) => ({ key: meter.id, title: html`<bdi title=${measures(meter)}>${meter.name}</bdi>`, align: /** @type {const} */ ("right"), cell: (/** @type {any} */ row) => (row.cells[at]?.has_value ? digits(row.cells[at].exact_value) : "–") })),
    ];
    const file = () => save("customers.csv", csv(["customer", ...meters.map(({ name }) => name)], rows.map(({ name, cells }) => [{ text: name }, ...cells.map((cell) => ({ number: cell?.has_value ? cell.exact_value : "" }))])));
    return html`<div class="row"><button data-testid="csv" onClick=${file}>CSV</button><span class="muted small">${number(rows.length)} customers</span></div>
      <${Table} label="Usage by customer" columns=${columns} rows=${rows} rowKey=${(/** @type {any} */ row) => row.name} testid="customers" /><${More} more=${more} />`;
  }}<//>`;
}

/** @param {TabProps} props */
function Features({ state, span }) {
  const load = useLoad((signal) => post("/v1/events/analytics", { start_time: span.start, end_time: span.end, timezone: state.zone }, { signal }), [JSON.stringify(span)]);
  return html`<${Loaded} of=${load} what="the features">${(/** @type {any} */ { items }) => {
    if (items.length === 0) return html`<${Empty} title="No feature yet">A feature is what customers know a meter by. <code>POST /v1/features</code> with a name and a meter_id makes one.<//>`;
    const columns = [
      { key: "name", title: "Feature", cell: (/** @type {any} */ item) => html`<bdi>${item.name}</bdi>` },
      { key: "meter", title: "Counts", cell: (/** @type {any} */ item) => html`<${Link} href=${kept(["meters", item.meter_id], state)}><bdi>${item.aggregation_type} over ${item.event_name}</bdi><//>` },
      { key: "total", title: "Total", align: /** @type {const} */ ("right"), cell: (/** @type {any} */ item) => html`<span data-testid="feature-total">${item.has_value ? digits(item.total_usage) : "–"}</span>` },
      { key: "unit", title: "Unit", cell: (/** @type {any} */ item) => html`<bdi>${item.unit_plural || item.unit}</bdi>` },
      { key: "events", title: "Events", align: /** @type {const} */ ("right"), cell: (/** @type {any} */ item) => number(item.event_count) },
    ];
    const file = () => save("features.csv", csv(["feature", "total", "unit", "events"], items.map((/** @type {any} */ item) => [{ text: item.name }, { number: item.has_value ? item.total_usage : "" }, { text: item.unit_plural || item.unit }, { number: item.event_count }])));
    return html`<div class="row"><button data-testid="csv" onClick=${file}>CSV</button></div><${Table} label="Totals by feature" columns=${columns} rows=${items} rowKey=${(/** @type {any} */ item) => item.feature_id} testid="features" />`;
  }}<//>`;
}
