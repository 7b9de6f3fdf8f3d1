// People: the list, and one of them; and groups: /persons, /persons/{person id}, /persons/groups.
import { Card, Code, copy, Empty, Field, go, Head, html, Input, Link, Loaded, number, Pages, path, pretty, session, setQuery, Table, Tabs, Time, useEffect, useGet, usePages } from "../lib/page.js";
import { brief, EventTable } from "../lib/events.js";
import { address, fresh } from "../insights/question.js";

/** @param {PersonsProps} props */
export default function Persons({ parts, query }) {
  const [id] = parts;
  if (id === "groups") return html`<${Groups} query=${query} />`;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${List} query=${query} />`;
}

const TABS = /** @type {[string, string, string][]} */ ([["", "People", "/persons"], ["groups", "Groups", "/persons/groups"]]);
/** @type {Column} */
const PROPERTIES = { key: "properties", title: "Properties", cell: (one) => html`<code class="clip"><bdi>${brief(one.properties)}</bdi></code>` };

/** @param {{query: URLSearchParams}} props */
function List({ query }) {
  const distinct_id = query.get("distinct_id") ?? "";
  const load = usePages("/api/persons", { distinct_id }, "persons");
  /** @type {Column[]} */
  const columns = [
    { key: "ids", title: "Distinct ids", cell: (one) => html`<${Link} class="clip" href=${path(["persons", one.id])}><bdi>${one.distinct_ids.slice(0, 3).join(", ")}${one.distinct_ids.length > 3 ? ` and ${one.distinct_ids.length - 3} more` : ""}</bdi><//>` },
    PROPERTIES,
    { key: "events_total", title: "Events", right: true },
    { key: "first_seen", title: "First seen", as: "time" },
    { key: "last_seen", title: "Last seen", as: "ago" },
  ];
  return html`<${Head} title="People" about="Everybody who has an event; distinct ids that were merged are one person." />
    <${Tabs} items=${TABS} current="" label="People" />
    <div class="filters"><${Field} label="Distinct id"><${Input} value=${distinct_id} placeholder="anybody" data-testid="filter-person" onChange=${(distinct_id) => setQuery({ distinct_id })} /><//></div>
    <${Pages} of=${load} what="people" empty=${html`<${Empty} title="Nobody">${distinct_id ? "No event has this distinct id." : "People appear with their first event."}<//>`}>
      ${(persons) => html`<${Table} columns=${columns} rows=${persons} label="People" testid="persons-table" rowKey=${(one) => one.id} onRow=${(one) => go(path(["persons", one.id]))} />`}<//>`;
}

/** Companies, teams, whatever events are of besides a person. @param {{query: URLSearchParams}} props */
function Groups({ query }) {
  const [type, search] = [query.get("type") ?? "", query.get("search") ?? ""];
  const load = usePages("/api/groups", { type, search }, "groups");
  /** @param {any} one */
  const chart = (one) => address("trends", { ...fresh("trends"), filters: [{ type: "group", group_type: one.type, key: "$group_key", operator: "exact", value: [one.key] }] });
  return html`<${Head} title="Groups" about="Companies, teams and the like, as $groupidentify events name them." />
    <${Tabs} items=${TABS} current="groups" label="People" />
    <div class="filters">
      <${Field} label="Type"><${Input} value=${type} placeholder="any" data-testid="group-type" onChange=${(type) => setQuery({ type })} /><//>
      <${Field} label="Key"><${Input} value=${search} placeholder="any" data-testid="group-search" onChange=${(search) => setQuery({ search })} /><//>
    </div>
    <${Pages} of=${load} what="groups" empty=${html`<${Empty} title="No groups">Events of the name <code>$groupidentify</code> make them.<//>`}>
      ${(groups) => html`<${Table} label="Groups" testid="groups-table" rows=${groups} columns=${[
        { key: "type", title: "Type" }, { key: "key", title: "Key", cell: (one) => html`<${Link} href=${chart(one)}><bdi>${one.key}</bdi><//>` },
        PROPERTIES, { key: "first_seen", title: "First seen", as: "time" },
      ]} />`}<//>`;
}

/** @param {{id: string}} props */
function One({ id }) {
  const person = useGet(`/api/persons/${encodeURIComponent(id)}`);
  useEffect(() => scrollTo(0, 0), []);
  return html`<${Head} title="Person"><button onClick=${() => copy(session.link(), "Link copied")}>Copy link</button><//>
    <${Loaded} of=${person} what="the person">${(found) => html`
      <div class="split">
        <${Card} title=${html`<bdi>${found.distinct_ids[0]}</bdi>`}>
          <dl class="facts" data-testid="person-facts">
            <dt>Person id</dt><dd><code>${found.id}</code></dd>
            <dt>Distinct ids</dt><dd>${found.distinct_ids.map((/** @type {string} */ one) => html`<div key=${one}><bdi>${one}</bdi></div>`)}</dd>
            <dt>Events</dt><dd class="number">${number(found.events_total)}</dd>
            <dt>First seen</dt><dd><${Time} at=${found.first_seen} /></dd>
            <dt>Last seen</dt><dd><${Time} at=${found.last_seen} /></dd>
          </dl>
        <//>
        <${Card} title="Properties">${Object.keys(found.properties).length > 0 ? html`<${Code} text=${pretty(found.properties)} label="Properties" />` : html`<p class="muted">None were set. Events set them with <code>$set</code>.</p>`}<//>
      </div>
      <${Card} title="Events" actions=${html`<${Link} href=${path(["events"], { person_id: found.id })}>All, with filters<//>`}>
        ${found.events.length > 0 ? html`<${EventTable} events=${found.events} label="Events of this person" height=${480} />` : html`<p class="muted">None: this person is known by a merge alone.</p>`}
      <//>`}<//>`;
}
