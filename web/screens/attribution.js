// Which earlier events a later one is credited to: the rules: /attribution; what one of them credited: /attribution/{id}.
import { Card, Code, Confirm, del, Empty, Fault, Field, FormDialog, go, Head, html, Link, Loaded, number, patch, path, post, pretty, Select, session, setQuery, Table, TextField, textOf, Time, toast, useAction, useGet, useLoad, useState, zone } from "../lib/page.js";

/** @type {[string, string][]} */
const MODELS = [["last_touch", "Last touch: all to the latest"], ["first_touch", "First touch: all to the earliest"], ["linear", "Linear: the same to each"], ["position", "Position: most to first and last"]];
/** @type {[string, string][]} */
const JOINS = [["distinct_id", "the person"], ["session_id", "the session"], ["property", "a property"]];

/** @param {any} rule */
const joined = (rule) => (rule.join.by === "property" ? `${rule.join.source} = ${rule.join.target}` : JOINS.find(([by]) => by === rule.join.by)?.[1]);

/** @param {{parts: string[], query: URLSearchParams}} props */
export default function Attribution({ parts, query }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} query=${query} />` : html`<${All} />`;
}

function All() {
  const rules = useGet("/api/attribution/rules");
  const [making, setMaking] = useState(false);
  return html`<${Head} title="Attribution" about="Rules that credit an event to those before it: which advert, mail or page an order came from.">
      ${session.role() === "owner" ? html`<button class="primary" onClick=${() => setMaking(true)} data-testid="new-rule">New rule</button>` : null}
    <//>
    <${Loaded} of=${rules} what="rules">${(found) => found.rules.length === 0
      ? html`<${Empty} title="No rule yet">A rule says which events can be credited, which one is credited to them, what they have in common, and how long before it counts. The past is computed, too.<//>`
      : html`<${Table} label="Rules" testid="rules" rows=${found.rules} rowKey=${(one) => one.id} onRow=${(one) => go(path(["attribution", one.id]))} columns=${[
          { key: "name", title: "Rule", cell: (one) => html`<${Link} href=${path(["attribution", one.id])}><bdi>${one.name}</bdi><//>` },
          { key: "target", title: "Credits" },
          { key: "sources", title: "To", cell: (one) => html`<bdi>${one.sources.join(", ")}</bdi>` },
          { key: "join", title: "With the same", cell: (one) => html`<bdi>${joined(one)}</bdi>` },
          { key: "look_back", title: "Within" }, { key: "model", title: "Model", cell: (one) => one.model.replace("_", " ") },
        ]} />`}<//>
    ${making ? html`<${Editing} title="New rule" onClose=${() => setMaking(false)} onSave=${async (rule) => go(path(["attribution", (await post("/api/attribution/rules", rule)).id]))} />` : null}`;
}

/** @param {{title: string, of?: any, onSave: (rule: any) => Promise<any>, onClose: () => void}} props */
function Editing({ title, of, onSave, onClose }) {
  const [by, setBy] = useState(of?.join.by ?? "distinct_id");
  const save = (/** @type {FormData} */ form) => {
    const text = (/** @type {string} */ name) => textOf(form, name);
    const join = by === "property" ? { by, source: text("join-source"), target: text("join-target") } : { by };
    return onSave({ name: text("name"), sources: text("sources").split(",").map((one) => one.trim()).filter(Boolean), target: text("target"), join, look_back: text("look_back"), model: text("model"), dimension: text("dimension") || null, value: text("value") || null });
  };
  const field = (/** @type {string} */ name, /** @type {string} */ label, /** @type {any} */ value, more = {}) => html`<div class="grow"><${TextField} name=${name} label=${label} value=${value} data-testid=${`rule-${name}`} maxlength="2000" ...${more} /></div>`;
  const needed = { required: true };
  return html`<${FormDialog} title=${title} action=${of ? "Save: another version" : "Make it"} save="save-rule" onSave=${save} onClose=${onClose} wide>
    ${field("name", "Name", of?.name, needed)}
    <div class="row">${field("target", "The event that is credited", of?.target, needed)}${field("sources", "To the events (with commas between)", of?.sources.join(", "), needed)}</div>
    <div class="row"><${Field} label="That have in common"><${Select} value=${by} options=${JOINS} onChange=${setBy} data-testid="rule-join" /><//>
      ${by === "property" ? html`${field("join-source", "Property of the earlier", of?.join.source, needed)}${field("join-target", "Property of the credited", of?.join.target, needed)}` : null}</div>
    <div class="row">${field("look_back", "Within, such as 7d", of?.look_back ?? "7d", needed)}<${Field} label="Model"><select name="model">${MODELS.map(([key, words]) => html`<option key=${key} value=${key} selected=${key === of?.model}>${words}</option>`)}</select><//></div>
    <div class="row">${field("dimension", "Break down by this property of the earlier (optional)", of?.dimension)}${field("value", "Also credit this number of the credited (optional)", of?.value)}</div>
  <//>`;
}

const RANGES = [["-7d", "the last 7 days"], ["-30d", "the last 30 days"], ["-90d", "the last 90 days"], ["all", "all time"]];
const BYS = [["source", "by event"], ["dimension", "by the rule's property"], ["day", "by day"]];

/** @param {{id: string, query: URLSearchParams}} props */
function One({ id, query }) {
  const at = `/api/attribution/rules/${encodeURIComponent(id)}`;
  const [owner, from, by] = [session.role() === "owner", query.get("from") ?? "-30d", query.get("by") ?? "source"];
  const rule = useGet(at);
  const answer = useLoad((signal) => post("/api/query/attribution", { rule_id: id, date_from: from, by, timezone: zone.value, refresh: true }, { signal }), [id, from, by, zone.value]);
  const newest = useGet(`${at}/conversions`, { limit: 50 });
  const [dialog, setDialog] = useState("");
  const again = useAction(async () => {
    await post(`${at}/recompute`, { from: new Date(Date.now() - 30 * 86_400_000).toISOString() });
    toast("The last 30 days are computed anew, as a job");
  });
  const remove = useAction(async () => {
    await del(at);
    toast("The rule was deleted");
    go("/attribution");
  });
  const reload = () => [rule, answer, newest].forEach((one) => one.reload());
  return html`<${Loaded} of=${rule} what="the rule">${(one) => html`<${Head} title=${html`<bdi>${one.name}</bdi>`} about=${html`<bdi>${one.target}</bdi> is credited to <bdi>${one.sources.join(", ")}</bdi> within ${one.look_back}, with the same <bdi>${joined(one)}</bdi>; ${one.model.replace("_", " ")}, version ${one.version}`}>
      <${Link} href="/attribution">All rules<//><button onClick=${reload} data-testid="refresh">Refresh</button>
      ${owner ? html`<button onClick=${again.run} disabled=${again.busy} data-testid="recompute">Compute 30 days anew</button><button onClick=${() => setDialog("edit")} data-testid="edit">Change…</button><button class="danger" onClick=${() => setDialog("delete")} data-testid="delete">Delete…</button>` : null}<//>
    <${Fault} error=${again.error} />
    <div class="filters"><${Field} label="Range"><${Select} value=${from} options=${RANGES} onChange=${(next) => setQuery({ from: next })} data-testid="range" /><//><${Field} label="Credit"><${Select} value=${by} options=${BYS} onChange=${(next) => setQuery({ by: next })} data-testid="by" /><//></div>
    <${Loaded} of=${answer} what="what is credited">${({ results, totals }) => html`<div class="tiles" data-testid="totals">${[["conversions", totals.conversions], ["of them credited", totals.attributed], ["value", totals.value], ["of it credited", totals.attributed_value]].map(([words, value]) => html`<div class="tile" key=${words}><div class="value">${number(value)}</div><div class="what">${words}</div></div>`)}</div>
      ${results.length === 0 ? html`<${Empty} title="Nothing is credited yet">Take a longer range; the past of a new rule is computed by a job.<//>` : html`<${Table} label="Credit" testid="credit" rows=${results} columns=${[
        { key: "name", title: "Name", cell: (row) => html`<bdi>${row.name || "(none)"}</bdi>` },
        { key: "conversions", title: "Conversions", right: true },
        { key: "credit", title: "Credit", right: true },
        { key: "value", title: "Value", right: true },
      ]} />`}`}<//>
    <${Card} title="Newest conversions" class="card spaced"><${Loaded} of=${newest} what="conversions">${(found) => found.conversions.length === 0 ? html`<p class="muted">None yet.</p>` : html`<${Table} label="Conversions" testid="conversions" rows=${found.conversions} columns=${[
      { key: "target_at", title: "When", cell: (row) => html`<${Link} href=${path(["events", row.target_event_id])}><${Time} at=${row.target_at} /><//>` },
      { key: "distinct_id", title: "Person" },
      { key: "credited", title: "Credited to", cell: (row) => row.credited.length === 0 ? "nothing" : row.credited.map((/** @type {any} */ one) => html`<${Link} key=${one.event_id} href=${path(["events", one.event_id])}><bdi>${one.event}</bdi> ${number(one.credit)}<//> `) },
    ]} />`}<//><//>
    <${Versions} key=${one.version} at=${at} />
    ${dialog === "edit" ? html`<${Editing} title="Change the rule" of=${one} onClose=${() => setDialog("")} onSave=${async (next) => { await patch(at, next); setDialog(""); toast("Its past is computed anew"); reload(); }} />` : null}
    ${dialog === "delete" ? html`<${Confirm} title="Delete the rule?" action="Delete it" busy=${remove.busy} onClose=${() => setDialog("")} onYes=${remove.run}><${Fault} error=${remove.error} /><p>What it credited is not shown any more. Events stay.</p><//>` : null}`}<//>`;
}

/** @param {{at: string}} props */
function Versions({ at }) {
  const all = useGet(`${at}/versions`);
  return html`<${Card} title="Versions"><${Loaded} of=${all} what="versions">${(found) => found.versions.slice().reverse().map((/** @type {any} */ one) => html`<details key=${one.version} data-testid="version"><summary>Version ${String(one.version)} <span class="muted small"><${Time} at=${one.created_at} /> by <bdi>${one.created_by}</bdi></span></summary><${Code} text=${pretty(one.definition)} label=${`Version ${one.version}`} /></details>`)}<//><//>`;
}
