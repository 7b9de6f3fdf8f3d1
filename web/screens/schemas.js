// What the properties of events have to look like: /schemas; one of them with its versions and what broke it: /schemas/{id}.
import { Card, Code, Confirm, del, Dialog, Empty, Exact, Fault, Field, get, go, Head, html, jsonOf, Link, Loaded, number, patch, path, post, pretty, Select, session, Table, Time, toast, useAction, useGet, useLoad, useState } from "../lib/page.js";

/** @type {[string, string][]} */
const POLICIES = [["reject", "Refuse what does not fit"], ["flag", "Accept and mark it"], ["accept", "Accept and count it"]];
/** @type {[string, string][]} */
const COMPATIBILITIES = [["none", "Anything"], ["backward", "Backward: takes every event of the one before"], ["forward", "Forward: its events fit the one before"], ["full", "Full: both"]];
/** @param {[string, string][]} choices @param {string} value */
const words = (choices, value) => choices.find(([one]) => one === value)?.[1] ?? value;

/** @param {{parts: string[]}} props */
export default function Schemas({ parts }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${All} />`;
}

function All() {
  const schemas = useGet("/api/schemas");
  const [making, setMaking] = useState(false);
  /** @type {Column[]} */
  const columns = [
    { key: "event", title: "Event", cell: (one) => html`<${Link} href=${path(["schemas", one.id])}><bdi>${one.event}</bdi><//>` },
    { key: "policy", title: "What does not fit", cell: (one) => words(POLICIES, one.policy) },
    { key: "compatibility", title: "The next version", cell: (one) => words(COMPATIBILITIES, one.compatibility) },
    { key: "versions", title: "Versions", right: true, cell: (one) => number(one.versions.length) },
    { key: "updated_at", title: "Changed", as: "ago" },
  ];
  return html`<${Head} title="Schemas" about="What the properties of an event have to look like, in versions that fit each other. Events without a schema are taken as they come.">
      ${session.role() === "owner" ? html`<button class="primary" onClick=${() => setMaking(true)} data-testid="new-schema">New schema</button>` : null}
    <//>
    <${Loaded} of=${schemas} what="schemas">${(found) => found.schemas.length === 0
      ? html`<${Empty} title="No schema yet">A schema notices when a program begins to send something else. Begin with “accept and mark it”: nothing is lost, and you see what does not fit.<//>`
      : html`<${Table} label="Schemas" testid="schemas" columns=${columns} rows=${found.schemas} rowKey=${(one) => one.id} onRow=${(one) => go(path(["schemas", one.id]))} />`}<//>
    ${making ? html`<${Making} onClose=${() => setMaking(false)} />` : null}`;
}

/** A definition that takes the newest events of a name. @param {string} event */
async function draft(event) {
  const { events } = await get("/api/query/events", { event, limit: 100 });
  /** @type {Map<string, {types: Set<string>, count: number}>} */
  const seen = new Map();
  for (const { properties } of events) {
    for (const [key, value] of Object.entries(properties)) {
      const one = seen.get(key) ?? { types: new Set(), count: 0 };
      one.types.add(value === null ? "null" : Array.isArray(value) ? "array" : value instanceof Exact ? "number" : typeof value);
      one.count++;
      seen.set(key, one);
    }
  }
  const properties = Object.fromEntries([...seen].map(([key, { types }]) => [key, { type: types.size === 1 ? [...types][0] : [...types] }]));
  return { type: "object", properties, required: [...seen].filter(([, { count }]) => count === events.length).map(([key]) => key) };
}

/** @param {{onClose: () => void}} props */
function Making({ onClose }) {
  const [event, setEvent] = useState("");
  const [text, setText] = useState(pretty({ type: "object", properties: {}, required: [] }));
  const drafting = useAction(async () => setText(pretty(await draft(event.trim()))));
  const make = useAction(async (form) => {
    const made = await post("/api/schemas", { event: event.trim(), definition: jsonOf(text, "The definition"), policy: form.get("policy"), compatibility: form.get("compatibility") });
    go(path(["schemas", made.id]));
  });
  return html`<${Dialog} title="New schema" onClose=${onClose} wide>
    <form class="form" onSubmit=${(event) => { event.preventDefault(); void make.run(new FormData(event.currentTarget)); }}>
      <div class="row"><div class="grow"><${Field} label="Event"><input type="text" required maxlength="200" value=${event} data-testid="schema-event" onInput=${(input) => setEvent(input.currentTarget.value)} /><//></div>
        <button type="button" disabled=${drafting.busy || !event.trim()} onClick=${drafting.run} data-testid="draft">Draft from the newest 100</button></div>
      <${Fault} error=${drafting.error} />
      <${Definition} text=${text} onChange=${setText} />
      <div class="row"><${Field} label="What does not fit"><${Named} name="policy" choices=${POLICIES} value="flag" /><//><${Field} label="The next version has to be"><${Named} name="compatibility" choices=${COMPATIBILITIES} value="backward" /><//></div>
      <${Fault} error=${make.error} />
      <div class="buttons"><button class="primary" disabled=${make.busy} data-testid="make-schema">Make it</button></div>
    </form>
  <//>`;
}

/** @param {DefinitionProps} props */
const Definition = ({ text, onChange }) => html`<${Field} label="Definition" hint="JSON Schema of the properties."><textarea rows="12" spellcheck=${false} value=${text} data-testid="definition" onInput=${(event) => onChange(event.currentTarget.value)}></textarea><//>`;

/** A choice that a form reads. @param {NamedProps} props */
const Named = ({ name, choices, value }) => html`<select name=${name}>${choices.map(([key, label]) => html`<option key=${key} value=${key} selected=${key === value}>${label}</option>`)}</select>`;

/** @param {{id: string}} props */
function One({ id }) {
  const at = `/api/schemas/${encodeURIComponent(id)}`;
  const owner = session.role() === "owner";
  const schema = useGet(at);
  const [dialog, setDialog] = useState("");
  const change = useAction(async (changes) => {
    await patch(at, changes);
    toast("Saved");
    schema.reload();
  });
  const remove = useAction(async () => {
    await del(at);
    toast("The schema was deleted");
    go("/schemas");
  });
  return html`<${Loaded} of=${schema} what="the schema">${(one) => html`
    <${Head} title=${html`Schema of <bdi>${one.event}</bdi>`}>
      <${Link} href="/schemas">All schemas<//>
      ${owner ? html`<button class="danger" onClick=${() => setDialog("delete")}>Delete…</button><button class="primary" onClick=${() => setDialog("next")} data-testid="next-version">Next version…</button>` : null}
    <//>
    <${Fault} error=${change.error} />
    <div class="split"><div>
      <${Card} title="Versions">${one.versions.slice().reverse().map((/** @type {any} */ version, /** @type {number} */ index) => html`<details key=${version.version} open=${index === 0} data-testid="version">
        <summary>Version ${String(version.version)} <span class="muted small"><${Time} at=${version.created_at} />${version.created_by ? html` by <bdi>${version.created_by}</bdi>` : ""}</span></summary><${Code} text=${pretty(version.definition)} label=${`Version ${version.version}`} />${version.upcast ? html`<p class="muted small">What events of version ${String(version.version - 1)} become in it:</p><${Code} text=${pretty(version.upcast)} label=${`Upcast to version ${version.version}`} />` : null}</details>`)}<//>
    </div><div>
      <${Card} title="Rules"><div class="form">
        <${Field} label="What does not fit"><${Select} value=${one.policy} options=${POLICIES} disabled=${!owner || change.busy} onChange=${(policy) => change.run({ policy })} data-testid="policy" /><//>
        <${Field} label="The next version has to be"><${Select} value=${one.compatibility} options=${COMPATIBILITIES} disabled=${!owner || change.busy} onChange=${(compatibility) => change.run({ compatibility })} data-testid="compatibility" /><//>
      </div><p class="muted small">An event names the version it was written for in <code>$schema_version</code>; else the newest counts.</p><//>
      <${Violations} event=${one.event} />
    </div></div>
    ${dialog === "next" ? html`<${Next} at=${at} newest=${one.versions.at(-1)?.definition} onClose=${() => setDialog("")} onDone=${() => { setDialog(""); schema.reload(); }} />` : null}
    ${dialog === "delete" ? html`<${Confirm} title="Delete the schema?" action="Delete it" busy=${remove.busy} onClose=${() => setDialog("")} onYes=${remove.run}><${Fault} error=${remove.error} /><p>Events of this name are taken as they come from then on.</p><//>` : null}`}<//>`;
}

/** @param {NextProps} props */
function Next({ at, newest, onClose, onDone }) {
  const [text, setText] = useState(pretty(newest ?? {}));
  const [verdict, setVerdict] = useState(/** @type {any} */ (null));
  const edit = (/** @type {string} */ next) => {
    setText(next);
    setVerdict(null);
  };
  const check = useAction(async () => setVerdict(await post(`${at}/check`, { definition: jsonOf(text, "The definition") })));
  const make = useAction(async () => {
    await post(`${at}/versions`, { definition: jsonOf(text, "The definition") });
    toast("It counts from now on");
    onDone();
  });
  const error = check.error ?? make.error;
  return html`<${Dialog} title="The next version" onClose=${onClose} wide><div class="form">
    <${Definition} text=${text} onChange=${edit} />
    ${verdict ? html`<div class="note ${verdict.compatible ? "good" : "warning"}" role="status" data-testid="verdict" data-compatible=${verdict.compatible}>${verdict.compatible ? "It is compatible." : html`It is not compatible: <ul>${verdict.breaches.map((/** @type {string} */ one) => html`<li key=${one}><bdi>${one}</bdi></li>`)}</ul>`}</div>` : null}
    <${Fault} error=${error} />
    <div class="buttons"><button disabled=${check.busy} onClick=${() => { make.clear(); void check.run(); }} data-testid="check">Check</button><button class="primary" disabled=${make.busy} onClick=${() => { check.clear(); void make.run(); }} data-testid="make-version">Make it</button></div>
  </div><//>`;
}

/** A text in SQL. @param {string} text */
const quoted = (text) => `'${text.replace(/[\\']/g, "\\$&")}'`;
const DAYS = 30;

/** Events that were marked because they do not fit. @param {{event: string}} props */
function Violations({ event }) {
  const since = new Date(Date.now() - DAYS * 86_400_000).toISOString().slice(0, 10);
  const query = `SELECT event_id, distinct_id, timestamp, schema_state FROM events WHERE event = ${quoted(event)} AND startsWith(schema_state, 'flagged') AND day >= toDate('${since}') ORDER BY timestamp DESC`;
  const load = useLoad((signal) => post("/api/query/sql", { query, limit: 50, refresh: true }, { signal }), [query]);
  return html`<${Card} title="What did not fit" actions=${html`<button class="small" onClick=${load.reload}>Refresh</button>`}>
    <${Loaded} of=${load} what="events that do not fit">${({ results, truncated }) => results.length === 0
      ? html`<${Empty} title="Nothing">No event that was accepted in ${String(DAYS)} days is marked.<//>`
      : html`<${Table} label="Events that do not fit" testid="violations" rows=${results} columns=${[
          { key: "0", title: "Event", cell: (row) => html`<${Link} class="clip" href=${path(["events", row[0]])}><bdi>${row[0]}</bdi><//>` },
          { key: "1", title: "Person", cell: (row) => html`<bdi>${row[1]}</bdi>` },
          { key: "3", title: "Held against", cell: (row) => `version ${row[3].replace("flagged", "").trim()}` },
        ]} />${truncated ? html`<p class="muted small">The newest 50 of ${String(DAYS)} days.</p>` : null}`}<//>
    ${session.role() === "owner" ? html`<p class="muted small">What the consumer refused is under <${Link} href=${path(["dead-letters"], { kind: "schema_violation" })}>dead letters<//>; what capture refused, its sender was told.</p>` : null}<//>`;
}
