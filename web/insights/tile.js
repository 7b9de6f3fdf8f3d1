// One answer on a dashboard.
import { GridTable } from "./grid.js";
import { ago, Fault, html, Link, Loading, path, post, useLoad, useState } from "../lib/page.js";
import { Answer } from "./answer.js";
import { Editing } from "./board.js";
import { Choice } from "./fields.js";
import { address, isKind, sendable, shaped } from "./question.js";

/** @type {[string, string][]} */
const WIDTHS = [["3", "Quarter"], ["4", "Third"], ["6", "Half"], ["8", "Two thirds"], ["12", "Whole row"]];
/** @type {[string, string][]} */
const HEIGHTS = [["160", "Low"], ["260", "Middle"], ["420", "High"]];
/** @type {[string, string][]} */
const VIEWS = [["picture", "Picture"], ["table", "Table"], ["both", "Both"]];

/** Questions of tiles on their way at once: a dashboard does not take every turn of its project. */
const AT_ONCE = 3;
let running = 0;
/** @type {(() => void)[]} */
const waiting = [];

/** @template T @param {() => Promise<T>} ask @returns {Promise<T>} */
async function inTurn(ask) {
  if (running >= AT_ONCE) await new Promise((/** @type {(value?: any) => void} */ go) => waiting.push(go));
  running++;
  try {
    return await ask();
  } finally {
    running--;
    waiting.shift()?.();
  }
}

/** The question as it is sent; that of a kind without a builder as it was saved. @param {Saved} tile */
const sentOf = (tile) => (isKind(tile.kind) ? sendable(shaped(tile.kind, tile.question)) : tile.question);

/**
 * @param {object} props
 * @param {Saved} props.tile
 * @param {number} props.index
 * @param {number} props.count
 * @param {number} props.now
 * @param {boolean} props.dropping another tile is held over this one
 * @param {Told} [props.told]
 * @param {(tile: Saved) => void} props.onChange
 * @param {() => void} props.onRemove
 * @param {(by: number) => void} props.onMove
 * @param {(what: "start" | "over" | "drop" | "end") => void} props.onDrag
 */
export function Tile({ tile, index, count, now, dropping, told, onChange, onRemove, onMove, onDrag }) {
  const [editing, setEditing] = useState(false);
  const { kind } = tile;
  const sent = sentOf(tile);
  const load = useLoad(async (signal) => {
    const answer = await inTurn(() => (signal.aborted ? Promise.resolve(null) : post(`/api/query/${kind}`, sent, { signal })));
    return { kind, sent, answer };
  }, [kind, JSON.stringify(sent)]);
  // The newer of the tile's own answer and the whole dashboard's.
  const newer = told && told.at > load.at;
  const shown = newer ? { ...load, data: told.answer ? { kind, sent, answer: told.answer } : load.data, error: told.error, at: told.answer ? told.at : load.at } : load;
  const width = String(tile.layout?.width ?? 6);
  const height = Number(tile.layout?.height ?? 260);
  const view = tile.layout?.view ?? "picture";
  const layout = (/** @type {any} */ next) => onChange({ ...tile, layout: { ...tile.layout, ...next } });
  /** What a button of the menu does, and the menu closes. @param {() => void} run */
  const act = (run) => (/** @type {any} */ event) => {
    event.currentTarget.closest("details").open = false;
    run();
  };
  const href = isKind(kind) ? address(kind, tile.question) : path(["insights"]);
  return html`<section class="card ${dropping ? "drop" : ""}" style=${{ gridColumn: `span ${width}` }} aria-label=${tile.name} data-testid="tile" data-at=${shown.at}
    onDragOver=${(event) => { event.preventDefault(); onDrag("over"); }} onDrop=${(event) => { event.preventDefault(); onDrag("drop"); }}>
    <header draggable="true" onDragStart=${() => onDrag("start")} onDragEnd=${() => onDrag("end")}>
      <h2>${isKind(kind) ? html`<${Link} href=${href}><bdi>${tile.name}</bdi><//>` : html`<bdi>${tile.name}</bdi>`}</h2>
      <details class="menu-of"><summary aria-label=${`What to do with ${tile.name}`} data-testid="tile-menu">⋯</summary><div class="panel">
        <div class="row"><button class="small" disabled=${index === 0} data-testid="tile-earlier" onClick=${act(() => onMove(-1))}>← Earlier</button><button class="small" disabled=${index === count - 1} data-testid="tile-later" onClick=${act(() => onMove(1))}>Later →</button></div>
        <div class="field"><span class="label">Width</span><${Choice} label="Width" testid="tile-width" value=${width} choices=${WIDTHS} onChange=${(next) => layout({ width: Number(next) })} /></div>
        <div class="field"><span class="label">Height</span><${Choice} label="Height" testid="tile-height" value=${String(height)} choices=${HEIGHTS} onChange=${(next) => layout({ height: Number(next) })} /></div>
        <div class="field"><span class="label">Shows</span><${Choice} label="Shows" testid="tile-view" value=${view} choices=${VIEWS} onChange=${(next) => layout({ view: next })} /></div>
        <button data-testid="tile-edit" onClick=${act(() => setEditing(true))}>Rename</button>
        <button class="danger" data-testid="tile-remove" onClick=${act(onRemove)}>Take off</button>
      </div></details>
    </header>
    ${tile.description && html`<p class="muted small"><bdi>${tile.description}</bdi></p>`}
    <div class="tile-body">${isKind(kind) ? html`<${Answer} kind=${kind} load=${{ ...shown, open: "" }} parts=${view} height=${height} />` : html`<${Rows} load=${shown} height=${height} />`}</div>
    <p class="age muted small" data-testid="age">${shown.at > 0 ? `answered ${ago(shown.at, Math.max(now, shown.at))}` : ""}${shown.data?.answer?.meta?.cached ? ", remembered" : ""}</p>
    ${editing && html`<${Editing} title="Rename this answer" of=${tile} onClose=${() => setEditing(false)} onSave=${(next) => { setEditing(false); onChange({ ...tile, ...next }); }} />`}
  </section>`;
}

/** The rows of a question in SQL. @param {{load: any, height: number}} props */
function Rows({ load, height }) {
  if (load.error) return html`<${Fault} error=${load.error} retry=${load.reload} />`;
  const answer = load.data?.answer;
  if (!answer) return html`<${Loading} what="the answer" />`;
  const heads = answer.columns.map((/** @type {any} */ column) => ({ title: column.name }));
  const text = (/** @type {any} */ value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : value);
  const rows = answer.results.map((/** @type {any[]} */ row) => row.map((value) => ({ value: text(value), as: typeof value === "number" ? "number" : "text" })));
  return html`<${GridTable} grid=${{ heads, rows }} label="The rows" height=${height} />`;
}
