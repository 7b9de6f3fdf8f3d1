// An answer somewhere else: as a request, as a file, as a link, on a dashboard.
import { copy, Dialog, Fault, Field, html, Link, Loaded, patch, path, post, save, session, toast, useAction, useGet, useState } from "../lib/page.js";
import { Choice } from "./fields.js";
import { address } from "./question.js";

/** For a shell: nothing in it is taken for anything but text. @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The request as a line for a terminal; the key is the reader's own. @param {string} to @param {any} body */
export function curl(to, body) {
  return `curl ${quoted(location.origin + to)} -H "X-API-Key: $FLEXFLOW_KEY" -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(body))}`;
}

/** A link that shows the same to whoever may see it. @param {Kind} kind @param {any} question */
export function link(kind, question) {
  const { project, environment } = session.scope.peek();
  const url = new URL(address(kind, question), location.origin);
  url.searchParams.set("project", project);
  url.searchParams.set("environment", environment);
  return url.href;
}

/** @param {{kind: Kind, question: any}} props `question`: as it was sent */
export function Share({ kind, question }) {
  const [saving, setSaving] = useState(false);
  const to = `/api/query/${kind}`;
  const csv = useAction(async () => save(`${kind}.csv`, await post(to, question, { query: { format: "csv" }, as: "text" })));
  return html`
    <button data-testid="copy-curl" onClick=${() => copy(curl(to, question), "Copied: set FLEXFLOW_KEY to a key with the scope query")}>Copy request</button>
    <button data-testid="csv" disabled=${csv.busy} onClick=${csv.run}>CSV</button>
    <button data-testid="copy-link" onClick=${() => copy(link(kind, question), "Link copied")}>Copy link</button>
    <button class="primary" data-testid="save" onClick=${() => setSaving(true)}>Save to dashboard</button>
    <${Fault} error=${csv.error} />
    ${saving && html`<${SaveTo} kind=${kind} question=${question} onClose=${() => setSaving(false)} />`}`;
}

const NEW = "";

/** @param {SaveToProps} props */
function SaveTo({ kind, question, onClose }) {
  const load = useGet("/api/dashboards");
  return html`<${Dialog} title="Save to a dashboard" onClose=${onClose} testid="save-dialog">
    <${Loaded} of=${load} what="the dashboards">${(data) => html`<${SaveForm} dashboards=${data.dashboards} kind=${kind} question=${question} onClose=${onClose} />`}<//>
  <//>`;
}

/** @param {SaveFormProps} props */
function SaveForm({ dashboards, kind, question, onClose }) {
  const [id, setId] = useState(dashboards[0]?.id ?? NEW);
  const [dashboard, setDashboard] = useState("");
  const [name, setName] = useState("");
  const tile = { name: name.trim(), kind, question };
  const { run, busy, error } = useAction(async () => {
    const known = dashboards.find((one) => one.id === id);
    const saved = known
      ? await patch(`/api/dashboards/${encodeURIComponent(known.id)}`, { tiles: [...known.tiles, tile], revision: known.revision })
      : await post("/api/dashboards", { name: dashboard.trim(), tiles: [tile] });
    toast(`Saved to ${saved.name}`);
    onClose();
  });
  /** @type {[string, string][]} */
  const choices = [...dashboards.map((one) => /** @type {[string, string]} */ ([one.id, one.name])), [NEW, "A new dashboard…"]];
  return html`<form class="form" onSubmit=${(event) => { event.preventDefault(); void run(); }}>
    <${Field} label="Name of this answer"><input type="text" data-testid="tile-name" required maxlength="200" value=${name} onInput=${(event) => setName(event.currentTarget.value)} /><//>
    <${Field} label="Dashboard"><${Choice} label="Dashboard" testid="tile-dashboard" value=${id} choices=${choices} onChange=${setId} /><//>
    ${id === NEW && html`<${Field} label="Name of the new dashboard"><input type="text" data-testid="dashboard-name" required maxlength="200" value=${dashboard} onInput=${(event) => setDashboard(event.currentTarget.value)} /><//>`}
    <${Fault} error=${error} />
    <div class="buttons">
      ${id !== NEW && html`<${Link} href=${path(["dashboards", id])}>Open it<//>`}
      <button type="submit" class="primary" data-testid="save-tile" disabled=${busy}>Save</button>
    </div>
  </form>`;
}
