// What the screens about events share: the filters above a list, and the list.
import { Time } from "./format.js";
import { pretty } from "./json.js";
import { useGet } from "./load.js";
import { Field, Input, Select } from "./parts.js";
import { go, Link, path, place, setQuery } from "./router.js";
import { Table } from "./table.js";
import { html } from "./ui.js";

const OPERATORS = [
  ["exact", "is"], ["is_not", "is not"], ["icontains", "contains"], ["not_icontains", "does not contain"],
  ["gt", "is greater than"], ["lt", "is less than"], ["is_set", "is there"], ["is_not_set", "is not there"],
];

/** The names of events and properties there are. */
export const useNames = () => useGet("/api/query/names", { limit: 200 });

/** @param {{names: any}} props */
export const Known = ({ names }) => html`${["events", "properties"].map((what) => html`<datalist key=${what} id=${`known-${what}`}>${(names?.[what] ?? []).map((/** @type {any} */ one) => html`<option key=${one.name} value=${one.name} />`)}</datalist>`)}`;

/** The filters that the address holds, as the API takes them. @param {URLSearchParams} query */
export function eventFilters(query) {
  const [key, operator] = [query.get("key") ?? "", query.get("operator") ?? "exact"];
  const bare = operator === "is_set" || operator === "is_not_set";
  const value = query.get("value") ?? "";
  const numeric = operator === "gt" || operator === "lt";
  const usable = key !== "" && (bare || value !== "") && !(numeric && Number.isNaN(Number(value)));
  /** @type {any} */
  const filter = { key, operator };
  if (!bare) filter.value = numeric ? Number(value) : value;
  return {
    event: query.getAll("event"),
    distinct_id: query.get("distinct_id") ?? "",
    person_id: query.get("person_id") ?? "",
    properties: usable ? JSON.stringify([filter]) : "",
  };
}

/** The filters above a list of events; the address holds them. @param {{children?: any}} props */
export function EventFilters({ children }) {
  const { query } = place.value;
  const names = useNames();
  const operator = query.get("operator") ?? "exact";
  return html`<div class="filters" role="search" aria-label="Filters">
    <${Field} label="Event"><${Input} value=${query.get("event") ?? ""} placeholder="any" list="known-events" data-testid="filter-event"
      onChange=${(event) => setQuery({ event, cursor: null })} /><//>
    <${Field} label="Person (distinct id)"><${Input} value=${query.get("distinct_id") ?? ""} placeholder="any" data-testid="filter-person"
      onChange=${(distinct_id) => setQuery({ distinct_id, cursor: null })} /><//>
    <${Field} label="Property"><${Input} value=${query.get("key") ?? ""} placeholder="any" list="known-properties" data-testid="filter-key"
      onChange=${(key) => setQuery({ key, cursor: null })} /><//>
    ${query.get("key")
      ? html`<${Field} label="Holds if it"><${Select} value=${operator} options=${OPERATORS} data-testid="filter-operator"
          onChange=${(next) => setQuery({ operator: next, cursor: null })} /><//>`
      : null}
    ${query.get("key") && !["is_set", "is_not_set"].includes(operator)
      ? html`<${Field} label="Value"><${Input} value=${query.get("value") ?? ""} data-testid="filter-value"
          onChange=${(value) => setQuery({ value, cursor: null })} /><//>`
      : null}
    <${Known} names=${names.data} />
    ${["event", "distinct_id", "person_id", "key"].some((name) => query.get(name))
      ? html`<button class="quiet" onClick=${() => setQuery({ event: null, distinct_id: null, person_id: null, key: null, value: null, operator: null, cursor: null })}>Clear</button>`
      : null}
    ${children}
  </div>`;
}

/** The beginning of a JSON text, on one line. @param {any} properties */
export function brief(properties) {
  const text = pretty(properties).replace(/\s*\n\s*/g, " ");
  return text === "{}" ? "" : text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

/** @param {EventTableProps} props */
export function EventTable({ events, label, height, testid }) {
  /** @type {Column[]} */
  const columns = [
    { key: "timestamp", title: "Time", width: "170px", cell: (one) => html`<span class="nowrap"><${Time} at=${one.timestamp} millis /></span>` },
    { key: "event", title: "Event", width: "220px", cell: (one) => html`<${Link} class="clip" href=${path(["events", one.event_id])}><bdi>${one.event}</bdi><//>` },
    { key: "distinct_id", title: "Person", width: "200px", cell: (one) => html`<${Link} class="clip" href=${path(["persons"], { distinct_id: one.distinct_id })}><bdi>${one.distinct_id}</bdi><//>` },
    { key: "properties", title: "Properties", cell: (one) => html`<code class="clip"><bdi>${brief(one.properties)}</bdi></code>` },
  ];
  return html`<${Table} columns=${columns} rows=${events} label=${label} height=${height} testid=${testid}
    rowKey=${(one) => `${one.event_id} ${one.event} ${one.distinct_id} ${one.timestamp}`}
    onRow=${(one) => go(path(["events", one.event_id]))} />`;
}
