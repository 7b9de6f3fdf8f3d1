// Tables. A long one draws only the rows in sight.
import { number, Time } from "./format.js";
import { Exact } from "./json.js";
import { html, useLayoutEffect, useRef, useState } from "./ui.js";

const ROW = 33;
const AHEAD = 20;
/** From so many rows on, only those in sight are drawn. */
const LONG = 200;

/** What came from the API, as it is. @param {any} value @param {string} [as] */
function plain(value, as) {
  if (as === "code") return html`<code>${value}</code>`;
  if (as) return html`<${Time} at=${value} relative=${as === "ago"} millis=${as === "millis"} />`;
  const isNumber = value === null || typeof value === "number" || value instanceof Exact;
  return isNumber ? number(value) : html`<bdi>${value}</bdi>`;
}

/**
 * @param {TableProps} props
 *   `onRow`: what a click on a row, or Enter, does; `height`: of the part in sight, in pixels, of a long table
 */
export function Table({ columns, rows, label, rowKey, onRow, height = 560, testid, rowClass, selected }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const [top, setTop] = useState(0);
  const long = rows.length > LONG;
  useLayoutEffect(() => {
    if (!long) setTop(0);
  }, [long]);
  const first = long ? Math.max(0, Math.floor(top / ROW) - AHEAD) : 0;
  const last = long ? Math.min(rows.length, Math.ceil((top + height) / ROW) + AHEAD) : rows.length;
  const open = (/** @type {any} */ event, /** @type {any} */ row) => {
    if (!onRow || event.target.closest("a, button, input, select, label")) return;
    if (String(getSelection() ?? "") !== "") return;
    onRow(row);
  };
  const shown = rows.slice(first, last).map((row, at) => {
    const index = first + at;
    return html`<tr key=${rowKey ? rowKey(row, index) : index} data-row=${index} class=${`${rowClass?.(row) ?? ""} ${onRow ? "open" : ""}`}
      tabindex=${onRow ? 0 : undefined} aria-rowindex=${long ? index + 2 : undefined} aria-selected=${selected ? selected(row) : undefined}
      onClick=${(event) => open(event, row)}
      onKeyDown=${(event) => event.key === "Enter" && event.target === event.currentTarget && onRow?.(row)}>
      ${columns.map((column) => html`<td key=${column.key} class=${column.right ? "right" : ""}>${column.cell ? column.cell(row, index) : plain(row[column.key], column.as)}</td>`)}
    </tr>`;
  });
  const filler = (/** @type {number} */ count) => count > 0 ? html`<tr aria-hidden="true"><td colspan=${columns.length} style=${{ height: `${count * ROW}px`, padding: 0, border: 0 }}></td></tr>` : null;
  return html`<div class=${long ? "table long" : "table"} ref=${box} data-testid=${testid ?? "table"} role="region" aria-label=${label} tabindex="0"
    style=${long ? { maxHeight: `${height}px` } : undefined} onScroll=${long ? (event) => setTop(event.currentTarget.scrollTop) : undefined}>
    <table aria-label=${label} aria-rowcount=${long ? rows.length + 1 : undefined}>
      <thead><tr>${columns.map((column) => html`<th key=${column.key} scope="col" class=${column.right ? "right" : ""} style=${column.width ? { width: column.width } : undefined}>${column.title}</th>`)}</tr></thead>
      <tbody>${filler(first)}${shown}${filler(rows.length - last)}</tbody>
    </table>
  </div>`;
}
