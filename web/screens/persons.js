// People: the list, and one of them: /persons, /persons/{person id}.
import { Card, Code, copy, Empty, Fault, Field, get, go, Head, html, Input, Link, Loaded, number, path, pretty, session, setQuery, Table, Time, useAction, useEffect, useLoad, useState } from "../lib/page.js";
import { EventTable } from "../lib/events.js";

/** @param {PersonsProps} props */
export default function Persons({ parts, query }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${List} query=${query} />`;
}

/** @param {{query: URLSearchParams}} props */
function List({ query }) {
  const distinct = query.get("distinct_id") ?? "";
  const first = useLoad((signal) => get("/api/persons", { distinct_id: distinct, limit: 100 }, { signal }), [distinct]);
  const [more, setMore] = useState(/** @type {{at: number, persons: any[], cursor: string | null} | null} */ (null));
  const mine = more && more.at === first.at ? more : null;
  const next = useAction(async () => {
    const found = await get("/api/persons", { distinct_id: distinct, limit: 500, cursor: mine ? mine.cursor : first.data?.next_cursor });
    setMore({ at: first.at, persons: [...(mine?.persons ?? []), ...found.persons], cursor: found.next_cursor });
  });
  /** @type {Column[]} */
  const columns = [
    { key: "ids", title: "Distinct ids", cell: (one) => html`<${Link} class="clip" href=${path(["persons", one.id])}><bdi>${one.distinct_ids.slice(0, 3).join(", ")}${one.distinct_ids.length > 3 ? ` and ${one.distinct_ids.length - 3} more` : ""}</bdi><//>` },
    { key: "properties", title: "Properties", cell: (one) => html`<code class="clip"><bdi>${Object.keys(one.properties).length > 0 ? pretty(one.properties).replace(/\s*\n\s*/g, " ") : ""}</bdi></code>` },
    { key: "events_total", title: "Events", right: true },
    { key: "first_seen", title: "First seen", as: "time" },
    { key: "last_seen", title: "Last seen", as: "ago" },
  ];
  return html`<${Head} title="People" about="Everybody who has an event; distinct ids that were merged are one person." />
    <div class="filters"><${Field} label="Distinct id"><${Input} value=${distinct} placeholder="anybody" data-testid="filter-person" onChange=${(distinct_id) => setQuery({ distinct_id })} /><//></div>
    <${Loaded} of=${first} what="people">${(page) => {
      const persons = [...page.persons, ...(mine?.persons ?? [])];
      const cursor = mine ? mine.cursor : page.next_cursor;
      if (persons.length === 0) return html`<${Empty} title="Nobody">${distinct ? "No event has this distinct id." : "People appear with their first event."}<//>`;
      return html`<${Table} columns=${columns} rows=${persons} label="People" testid="persons-table" rowKey=${(one) => one.id} onRow=${(one) => go(path(["persons", one.id]))} />
        <p class="muted">${number(persons.length)} people shown${cursor ? html` · <button class="small" disabled=${next.busy} onClick=${next.run} data-testid="more">Show more</button>` : ", all of them"}</p><${Fault} error=${next.error} />`;
    }}<//>`;
}

/** @param {{id: string}} props */
function One({ id }) {
  const person = useLoad((signal) => get(`/api/persons/${encodeURIComponent(id)}`, {}, { signal }), [id]);
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
