// Usage: what meters count, in all, by customer, by feature. /usage/meters/<id> is one meter, /usage/customers/<id> one
// customer.
import { Badge, digits, Empty, go, Head, html, Link, Loaded, number, path, post, save, session, Table, Tabs, useGet, useLoad, useMemo, useState, zone } from "../lib/page.js";
import { Controls } from "../usage/controls.js";
import { FeatureActions, FeatureForm, MeterForm } from "../usage/making.js";
import { MeterScreen } from "../usage/meter.js";
import { csv, each, measures, question, spanOf, stateOf, usage } from "../usage/model.js";

/** Meters whose totals are asked on one page. */
const METERS_MAX = 50;

/** @param {UsageProps} props */
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

/** @param {OverviewProps} props */
function Overview({ tab, customer, query }) {
  const state = { ...stateOf(query, zone.value), customer };
  const [now, setNow] = useState(Date.now());
  const span = useMemo(() => spanOf(state, now), [JSON.stringify(state), now]);
  const meters = useGet("/v1/meters", { limit: METERS_MAX });
  const shown = { meters: Meters, customers: customer ? Meters : Customers, features: Features }[tab] ?? Meters;
  const title = customer ? html`Usage of <bdi>${customer}</bdi>` : "Usage";
  const owner = session.role() === "owner";
  const [making, setMaking] = useState("");
  const [turn, setTurn] = useState(0);
  const again = () => {
    setMaking("");
    setTurn(turn + 1);
    meters.reload();
  };
  const what = tab === "features" ? "feature" : "meter";
  return html`
    <${Head} title=${title} about="Totals to the last digit, as they are billed.">
      ${customer && html`<${Link} href=${kept(["customers"], state)}>All customers<//>`}
      <button data-testid="refresh" onClick=${() => setNow(Date.now())}>Refresh</button>
      ${owner && html`<button class="primary" data-testid=${`new-${what}`} disabled=${what === "feature" && !meters.data?.items.length} onClick=${() => setMaking(what)}>New ${what}</button>`}
    <//>
    <${Tabs} label="Usage by" current=${tab} items=${[["meters", "Meters", kept(["meters"], state)], ["customers", "Customers", kept(["customers"], state)], ["features", "Features", kept(["features"], state)]]} />
    <${Controls} state=${state} />
    <${Loaded} of=${meters} what="the meters">${(data) =>
      data.items.length === 0
        ? html`<${Empty} title="No meter yet">A meter says what of your events is counted; it counts those that are there already, too. ${owner ? "Make one above." : "An owner of the project makes it here."}<//>`
        : html`<${shown} key=${turn} meters=${data.items} more=${data.pagination.total - data.items.length} state=${state} span=${span} again=${owner ? again : undefined} />`}<//>
    ${making === "meter" && html`<${MeterForm} onClose=${() => setMaking("")} onDone=${(meter) => go(kept(["meters", meter.id], state))} />`}
    ${making === "feature" && html`<${FeatureForm} meters=${meters.data?.items ?? []} onClose=${() => setMaking("")} onDone=${again} />`}`;
}

/** @param {{more: number}} props */
const More = ({ more }) => (more > 0 ? html`<p class="muted small">${number(more)} more meters are not shown here; the API lists them.</p>` : null);

/** @param {TabProps} props */
function Meters({ meters, more, state, span }) {
  const load = useLoad((signal) => each(meters, (meter) => usage(question(meter.id, state, span, { window: "", by: "" }), signal)), [JSON.stringify([meters.map(({ id }) => id), state.customer, span])]);
  const href = (/** @type {Meter} */ meter) => kept(["meters", meter.id], state, state.customer ? { customer: state.customer } : {});
  return html`<${Loaded} of=${load} what="the totals">${(/** @type {any[]} */ answers) => {
    const rows = meters.map((meter, at) => ({ meter, answer: answers[at] }));
    /** @type {Column[]} */
    const columns = [
      { key: "name", title: "Meter", cell: (row) => html`<${Link} href=${href(row.meter)}><bdi>${row.meter.name}</bdi><//>${row.meter.status === "archived" ? html` <${Badge} kind="plain">archived<//>` : null}` },
      { key: "measures", title: "Counts", cell: (row) => html`<bdi class="muted">${measures(row.meter)}</bdi>` },
      { key: "total", title: "Total", right: true, cell: (row) => html`<span data-testid="meter-total">${row.answer.has_value ? digits(row.answer.exact_value) : "–"}</span>` },
      { key: "unit", title: "Unit", cell: (row) => html`<bdi>${row.meter.unit}</bdi>` },
      { key: "events", title: "Events", right: true, cell: (row) => number(row.answer.event_count) },
    ];
    const file = () => save("meters.csv", csv(["meter", "total", "unit", "events"], rows.map(({ meter, answer }) => [{ text: meter.name }, { number: answer.has_value ? answer.exact_value : "" }, { text: meter.unit ?? "" }, { number: answer.event_count }])));
    return html`<div class="row"><button data-testid="csv" onClick=${file}>CSV</button></div><${Table} label="Totals by meter" columns=${columns} rows=${rows} rowKey=${(row) => row.meter.id} testid="meters" /><${More} more=${more} />`;
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
    /** @type {Column[]} */
    const columns = [
      { key: "name", title: "Customer", cell: (row) => html`<${Link} href=${kept(["customers", row.name], state)}><bdi>${row.name || "(none)"}</bdi><//>` },
      ...meters.map((meter, at) => ({ key: meter.id, title: html`<bdi title=${measures(meter)}>${meter.name}</bdi>`, right: true, cell: (/** @type {any} */ row) => (row.cells[at]?.has_value ? html`<${Link} href=${kept(["meters", meter.id], state, { customer: row.name })}>${digits(row.cells[at].exact_value)}<//>` : "–") })),
    ];
    const file = () => save("customers.csv", csv(["customer", ...meters.map(({ name }) => name)], rows.map(({ name, cells }) => [{ text: name }, ...cells.map((cell) => ({ number: cell?.has_value ? cell.exact_value : "" }))])));
    return html`<div class="row"><button data-testid="csv" onClick=${file}>CSV</button><span class="muted small">${number(rows.length)} customers</span></div>
      <${Table} label="Usage by customer" columns=${columns} rows=${rows} rowKey=${(row) => row.name} testid="customers" /><${More} more=${more} />`;
  }}<//>`;
}

/** @param {TabProps} props */
function Features({ meters, state, span, again }) {
  const load = useLoad((signal) => post("/v1/events/analytics", { start_time: span.start, end_time: span.end, timezone: state.zone }, { signal }), [JSON.stringify(span)]);
  return html`<${Loaded} of=${load} what="the features">${({ items }) => {
    if (items.length === 0) return html`<${Empty} title="No feature yet">A feature is what customers know a meter by.<//>`;
    /** @type {Column[]} */
    const columns = [
      { key: "name", title: "Feature" },
      { key: "meter", title: "Counts", cell: (item) => html`<${Link} href=${kept(["meters", item.meter_id], state)}><bdi>${item.aggregation_type} over ${item.event_name}</bdi><//>` },
      { key: "total", title: "Total", right: true, cell: (item) => html`<span data-testid="feature-total">${item.has_value ? digits(item.total_usage) : "–"}</span>` },
      { key: "unit", title: "Unit", cell: (item) => html`<bdi>${item.unit_plural || item.unit}</bdi>` },
      { key: "events", title: "Events", right: true, cell: (item) => number(item.event_count) },
      ...(again ? [{ key: "act", title: "", cell: (/** @type {any} */ item) => html`<${FeatureActions} id=${item.feature_id} name=${item.name} meters=${meters} again=${again} />` }] : []),
    ];
    const file = () => save("features.csv", csv(["feature", "total", "unit", "events"], items.map((/** @type {any} */ item) => [{ text: item.name }, { number: item.has_value ? item.total_usage : "" }, { text: item.unit_plural || item.unit }, { number: item.event_count }])));
    return html`<div class="row"><button data-testid="csv" onClick=${file}>CSV</button></div><${Table} label="Totals by feature" columns=${columns} rows=${items} rowKey=${(item) => item.feature_id} testid="features" />`;
  }}<//>`;
}
