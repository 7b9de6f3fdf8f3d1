// Dashboards: the list of them; behind an id, one of them.
import { Empty, FormDialog, go, Head, html, Link, Loaded, Named, number, path, post, Table, textOf, useGet, useState } from "../lib/page.js";
import { Board } from "../insights/board.js";

/** @param {{parts: string[]}} props */
export default function Dashboards({ parts }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${All} />`;
}

function All() {
  const load = useGet("/api/dashboards");
  const [making, setMaking] = useState(false);
  /** @type {Column[]} */
  const columns = [
    { key: "name", title: "Name", cell: (one) => html`<${Link} href=${path(["dashboards", one.id])}><bdi>${one.name}</bdi><//>` },
    { key: "description", title: "Description", cell: (one) => html`<bdi class="clip">${one.description}</bdi>` },
    { key: "tiles", title: "Answers", right: true, cell: (one) => number(one.tiles.length) },
    { key: "updated_at", title: "Changed", as: "ago" },
  ];
  return html`
    <${Head} title="Dashboards" about="Answers that stand together, asked anew with one click.">
      <button class="primary" data-testid="new-dashboard" onClick=${() => setMaking(true)}>New dashboard</button>
    <//>
    <${Loaded} of=${load} what="the dashboards">${({ dashboards }) =>
      dashboards.length === 0
        ? html`<${Empty} title="No dashboard yet">Ask something under <${Link} href="/insights">Insights<//> and save it, or make an empty dashboard first.<//>`
        : html`<${Table} label="Dashboards" columns=${columns} rows=${dashboards} rowKey=${(one) => one.id} onRow=${(one) => go(path(["dashboards", one.id]))} testid="dashboards" />`}<//>
    ${making && html`<${Making} onClose=${() => setMaking(false)} />`}`;
}

/** @param {{onClose: () => void}} props */
function Making({ onClose }) {
  const make = async (/** @type {FormData} */ form) => {
    const made = await post("/api/dashboards", { name: textOf(form, "name"), description: textOf(form, "description") });
    onClose();
    go(path(["dashboards", made.id]));
  };
  return html`<${FormDialog} title="New dashboard" action="Make it" save="make" onSave=${make} onClose=${onClose} testid="make-dashboard"><${Named} /><//>`;
}

/** @param {{id: string}} props */
function One({ id }) {
  const load = useGet(`/api/dashboards/${encodeURIComponent(id)}`);
  return html`<${Loaded} of=${load} what="the dashboard">${(dashboard) => html`<${Board} key=${dashboard.id} saved=${dashboard} reload=${load.reload} />`}<//>`;
}
