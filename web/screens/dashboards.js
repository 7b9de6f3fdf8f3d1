// Dashboards: the list of them; behind an id, one of them.
import { get, post } from "../lib/api.js";
import { Time, number } from "../lib/format.js";
import { Empty, Fault, Loaded, useAction, useLoad } from "../lib/load.js";
import { Dialog, Field, Head } from "../lib/parts.js";
import { Link, go, path } from "../lib/router.js";
import { Table } from "../lib/table.js";
import { html, useState } from "../lib/ui.js";
import { Board } from "../insights/board.js";

/** @param {{parts: string[]}} props */
export default function Dashboards({ parts }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${All} />`;
}

function All() {
  const load = useLoad((signal) => get("/api/dashboards", {}, { signal }), []);
  const [making, setMaking] = useState(false);
  const columns = [
    { key: "name", title: "Name", cell: (/** @type {any} */ one) => html`<${Link} href=${path(["dashboards", one.id])}><bdi>${one.name}</bdi><//>` },
    { key: "description", title: "Description", cell: (/** @type {any} */ one) => html`<bdi class="clip">${one.description}</bdi>` },
    { key: "tiles", title: "Answers", align: /** @type {const} */ ("right"), cell: (/** @type {any} */ one) => number(one.tiles.length) },
    { key: "updated_at", title: "Changed", cell: (/** @type {any} */ one) => html`<${Time} at=${one.updated_at} relative />` },
  ];
  return html`
    <${Head} title="Dashboards" about="Answers that stand together, asked anew with one click.">
      <button class="primary" data-testid="new-dashboard" onClick=${() => setMaking(true)}>New dashboard</button>
    <//>
    <${Loaded} of=${load} what="the dashboards">${(/** @type {any} */ { dashboards }) =>
      dashboards.length === 0
        ? html`<${Empty} title="No dashboard yet">Ask something under <${Link} href="/insights">Insights<//> and save it, or make an empty dashboard first.<//>`
        : html`<${Table} label="Dashboards" columns=${columns} rows=${dashboards} rowKey=${(/** @type {any} */ one) => one.id} onRow=${(/** @type {any} */ one) => go(path(["dashboards", one.id]))} testid="dashboards" />`}<//>
    ${making && html`<${Making} onClose=${() => setMaking(false)} />`}`;
}

/** @param {{onClose: () => void}} props */
function Making({ onClose }) {
  const { run, busy, error } = useAction(async (/** @type {FormData} */ form) => {
    const made = await post("/api/dashboards", { name: String(form.get("name")).trim(), description: String(form.get("description")).trim() });
    onClose();
    go(path(["dashboards", made.id]));
  });
  return html`<${Dialog} title="New dashboard" onClose=${onClose} testid="make-dashboard">
    <form class="form" onSubmit=${(/** @type {any} */ event) => { event.preventDefault(); void run(new FormData(event.currentTarget)); }}>
      <${Field} label="Name"><input name="name" type="text" required maxlength="200" data-testid="name" /><//>
      <${Field} label="Description"><textarea name="description" rows="3" maxlength="4000" data-testid="description"></textarea><//>
      ${error && html`<${Fault} error=${error} />`}
      <div class="buttons"><button class="primary" type="submit" disabled=${busy} data-testid="make">Make it</button></div>
    </form>
  <//>`;
}

/** @param {{id: string}} props */
function One({ id }) {
  const load = useLoad((signal) => get(`/api/dashboards/${encodeURIComponent(id)}`, {}, { signal }), [id]);
  return html`<${Loaded} of=${load} what="the dashboard">${(/** @type {any} */ dashboard) => html`<${Board} key=${dashboard.id} saved=${dashboard} reload=${load.reload} />`}<//>`;
}
