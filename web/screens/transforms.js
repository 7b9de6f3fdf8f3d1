// What raw events become: /transforms, /transforms/raw (what became of each); one transform with its versions and a try:
// /transforms/{id}.
import { Badge, Card, Code, Confirm, del, Empty, Fault, Field, FormDialog, go, Head, html, jsonOf, Link, Loaded, number, path, post, pretty, put, Select, session, setQuery, Table, Tabs, TextField, toast, useAction, useGet, useState } from "../lib/page.js";

/** @type {[string, string, string][]} */
const TABS = [["", "Transforms", "/transforms"], ["raw", "Raw events", "/transforms/raw"]];

/** @param {TransformsProps} props */
export default function Transforms({ parts, query }) {
  const [tab = ""] = parts;
  if (tab && tab !== "raw") return html`<${One} key=${tab} id=${tab} />`;
  return html`<${Head} title="Transforms" about="Payloads of any shape, sent to /v1/events/raw/bulk, become events by the transform with the name raw." />
    <${Tabs} label="Transforms" current=${tab} items=${TABS} />
    ${tab === "raw" ? html`<${Raws} query=${query} />` : html`<${All} />`}`;
}

function All() {
  const all = useGet("/api/transforms");
  return html`<${Loaded} of=${all} what="transforms">${(found) => html`<${Table} label="Transforms" testid="transforms" rows=${found.items} onRow=${(one) => go(path(["transforms", one.id]))} columns=${[
    { key: "name", title: "Name", cell: (one) => html`<${Link} href=${path(["transforms", one.id])}><bdi>${one.name}</bdi><//>` },
    { key: "version", title: "Version", cell: (one) => (one.version === 0 ? "the one that is built in" : String(one.version)) },
    { key: "updated_at", title: "Changed", as: "ago" },
  ]} />`}<//>`;
}

/** What a request says of a transform: JSON, or TOML as text. @param {string} text */
const written = (text) => (text.trim().startsWith("{") ? { spec: jsonOf(text, "The transform") } : { toml: text });

/** @param {{id: string}} props */
function One({ id }) {
  const one = useGet(`/api/transforms/${encodeURIComponent(id)}`);
  return html`<${Loaded} of=${one} what="the transform">${(found) => html`<${Edited} key=${`${found.id} ${found.version}`} of=${found} reload=${one.reload} />`}<//>`;
}

const SAMPLE = { id: "call-1", orgId: "org-1", methodName: "Chat", providerName: "OpenAI", createdAt: "2026-01-31T12:00:00Z", data: { modelName: "gpt", promptTokens: 12 } };

/** @param {{of: any, reload: () => void}} props */
function Edited({ of, reload }) {
  const at = `/api/transforms/${encodeURIComponent(of.id)}`;
  const [owner, builtIn] = [session.role() === "owner", of.version === 0];
  const [text, setText] = useState(pretty(of.spec));
  const [samples, setSamples] = useState(pretty([SAMPLE]));
  const [leaving, setLeaving] = useState(false);
  const tried = useAction(async () => {
    const given = jsonOf(samples, "What is to be tried");
    setAnswer(await post("/api/transforms/test", { ...written(text), samples: Array.isArray(given) ? given : [given] }));
  });
  const [answer, setAnswer] = useState(/** @type {any} */ (null));
  const save = useAction(async () => {
    const made = await (builtIn ? post("/api/transforms", { name: of.name, ...written(text) }) : put(at, written(text)));
    toast(`Version ${made.version} counts from now on`);
    if (builtIn) go(path(["transforms", made.id]));
    else reload();
  });
  const remove = useAction(async () => {
    await del(at);
    toast("The transform was deleted");
    go("/transforms");
  });
  return html`<${Head} title=${html`Transform <bdi>${of.name}</bdi>`} about=${builtIn ? "The one that is built in: saving a change makes one of this environment's own." : `Version ${of.version}. Saving makes the next one; raw events that are here already keep what they became until they are reprocessed.`}>
      <${Link} href="/transforms">All transforms<//>
      ${owner && !builtIn ? html`<button class="danger" onClick=${() => setLeaving(true)}>Delete…</button>` : null}
      ${owner ? html`<button class="primary" disabled=${save.busy} onClick=${save.run} data-testid="save-transform">Save</button>` : null}
    <//>
    <${Fault} error=${save.error} />
    <div class="split"><${Card} title="What it says">
        <${Field} label="JSON, or TOML as flexflow transform default prints it"><textarea rows="24" spellcheck=${false} readonly=${!owner} value=${text} data-testid="spec" onInput=${(event) => setText(event.currentTarget.value)}></textarea><//><//>
      <div><${Card} title="Try it" actions=${html`<button disabled=${tried.busy} onClick=${tried.run} data-testid="try">Try</button>`}>
          <${Field} label="Payloads" hint="JSON: one, or a list. What stands on the left is tried, saved or not."><textarea rows="10" spellcheck=${false} value=${samples} data-testid="samples" onInput=${(event) => setSamples(event.currentTarget.value)}></textarea><//>
          <${Fault} error=${tried.error} />
          ${answer ? html`<div data-testid="tried"><p>${number(answer.transformed)} become events, ${number(answer.dropped)} dropped, ${number(answer.errors)} errors.</p>${answer.results.map(Tried)}</div>` : null}<//>
        ${builtIn ? null : html`<${Versions} at=${at} onTake=${setText} />`}</div></div>
    ${leaving ? html`<${Confirm} title="Delete the transform?" action="Delete it" busy=${remove.busy} onClose=${() => setLeaving(false)} onYes=${remove.run}><${Fault} error=${remove.error} /><p>Raw events go through the one that is built in from then on.</p><//>` : null}`;
}

const OUTCOMES = /** @type {Record<string, string>} */ ({ events: "good", published: "good", dropped: "warning", error: "bad" });

/** @param {any} one @param {number} index */
const Tried = (one, index) => html`<div key=${index}><${Badge} kind=${OUTCOMES[one.outcome]}>${one.outcome}<//> <bdi>${one.reason ?? one.error ?? ""}</bdi>${one.events ? html`<${Code} text=${pretty(one.events)} label=${`What payload ${index + 1} becomes`} />` : null}</div>`;

/** @param {VersionsProps} props */
function Versions({ at, onTake }) {
  const all = useGet(`${at}/versions`);
  return html`<${Card} title="Versions"><${Loaded} of=${all} what="versions">${(found) => html`<${Table} label="Versions" testid="versions" rows=${found.items} columns=${[
    { key: "version", title: "Version", right: true, cell: (one) => String(one.version) },
    { key: "created_at", title: "Made", as: "time" },
    { key: "act", title: "", cell: (one) => html`<button class="small" onClick=${() => onTake(pretty(one.spec))}>Look at it</button>` },
  ]} />`}<//><//>`;
}

/** What became of raw events. @param {{query: URLSearchParams}} props */
function Raws({ query }) {
  const outcome = query.get("outcome") ?? "";
  const all = useGet("/v1/events/raw/list", { outcome, limit: 200 });
  const [asking, setAsking] = useState(false);
  return html`<div class="filters"><${Field} label="What became of them"><${Select} value=${outcome} options=${[["", "anything"], ["published", "events"], ["dropped", "dropped"], ["error", "an error"]]} onChange=${(next) => setQuery({ outcome: next })} data-testid="outcome" /><//>
      <button onClick=${all.reload}>Refresh</button>
      ${session.role() === "owner" ? html`<button class="primary" onClick=${() => setAsking(true)} data-testid="reprocess">Reprocess…</button>` : null}</div>
    <${Loaded} of=${all} what="raw events">${(found) => found.raw_events.length === 0
      ? html`<${Empty} title="No raw events">Programs send them to <code>POST /v1/events/raw/bulk</code>.<//>`
      : html`<div class="tiles" data-testid="raw-counts">${found.counts.map((/** @type {any} */ one) => html`<div class="tile" key=${`${one.outcome} ${one.reason}`}><div class="value">${number(one.raw_events)}</div><div class="what">${one.outcome} ${one.reason}</div></div>`)}</div>
        <${Table} label="Raw events" testid="raws" rows=${found.raw_events} rowKey=${(one) => `${one.id} ${one.timestamp} ${one.external_customer_id}`} columns=${[
          { key: "timestamp", title: "Happened", as: "time" },
          { key: "id", title: "Id" },
          { key: "external_customer_id", title: "Customer" },
          { key: "outcome", title: "Became", cell: (one) => html`<${Badge} kind=${OUTCOMES[one.outcome]}>${one.outcome}<//> <bdi>${one.reason}</bdi> ${one.event_ids.slice(0, 3).map((/** @type {string} */ id) => html`<${Link} key=${id} href=${path(["events", id])}><bdi>${id}</bdi><//> `)}` },
          { key: "transform_version", title: "By version", right: true, cell: (one) => String(one.transform_version) },
        ]} />${found.next_cursor ? html`<p class="muted small">The first 200 are shown; the API has all.</p>` : null}`}<//>
    ${asking ? html`<${Reprocess} onClose=${() => setAsking(false)} />` : null}`;
}

/** @param {{onClose: () => void}} props */
function Reprocess({ onClose }) {
  const start = async (/** @type {FormData} */ form) => {
    const day = (/** @type {string} */ name, /** @type {string} */ clock) => (form.get(name) ? `${form.get(name)}T${clock}Z` : undefined);
    const body = { start_date: day("from", "00:00:00"), end_date: day("to", "23:59:59"), dry_run: form.has("dry") };
    await post(form.has("pending") ? "/v1/events/raw/reprocess/pending" : "/v1/events/raw/reprocess", body);
    toast("It runs as a job");
    go("/pipeline/jobs");
  };
  return html`<${FormDialog} title="Reprocess raw events" action="Start" save="start" onSave=${start} onClose=${onClose}>
    <p>They go through the transform as it is now, and what they become replaces what they were. It runs as a job, which can be cancelled and goes on after a crash.</p>
    <div class="row"><${TextField} type="date" name="from" label="First day (UTC)" required /><${TextField} type="date" name="to" label="Last day" /></div>
    <label class="field inline"><input type="checkbox" name="pending" data-testid="pending" />only those whose events are not stored</label>
    <label class="field inline"><input type="checkbox" name="dry" data-testid="dry" />dry run: count, and change nothing</label>
  <//>`;
}
