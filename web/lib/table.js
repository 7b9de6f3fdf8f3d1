// Tables. A long one draws only the rows in sight.
import { html, useLayoutEffect, useRef, useState } from "./ui.js";

/**
 * @typedef {object} Column
 * @property {string} key
 * @property {any} title
 * @property {(row: any, index: number) => any} [cell] what is shown; row[key] when absent
 * @property {"right"} [align] numbers stand right
 * @property {string} [width] a CSS width
 */

const ROW = 33;
const AHEAD = 20;
/** From so many rows on, only those in sight are drawn. */
const LONG = 200;

/**
 * @param {{columns: Column[], rows: any[], label: string, rowKey?: (row: any, index: number) => string | number,
 *   onRow?: (row: any) => void, height?: number, testid?: string, rowClass?: (row: any) => string, selected?: (row: any) => boolean}} props
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
      onClick=${(/** @type {any} */ event) => open(event, row)}
      onKeyDown=${(/** @type {any} */ event) => event.key === "Enter" && event.target === event.currentTarget && onRow?.(row)}>
      ${columns.map((column) => html`<td key=${column.key} class=${column.align === "right" ? "right" : ""}>${column.cell ? column.cell(row, index) : row[column.key]}</td>`)}
    </tr>`;
  });
  const filler = (/** @type {number} */ count) => count > 0 ? html`<tr aria-hidden="true"><td colspan=${columns.length} style=${{ height: `${count * ROW}px`, padding: 0, border: 0 }}></td></tr>` : null;
  return html`<div class=${long ? "table long" : "table"} ref=${box} data-testid=${testid ?? "table"} role="region" aria-label=${label} tabindex="0"
    style=${long ? { maxHeight: `${height}px` } : undefined} onScroll=${long ? (/** @type {any} */ event) => setTop(event.currentTarget.scrollTop) : undefined}>
    <table aria-label=${label} aria-rowcount=${long ? rows.length + 1 : undefined}>
      <thead><tr>${columns.map((column) => html`<th key=${column.key} scope="col" class=${column.align === "right" ? "right" : ""} style=${column.width ? { width: column.width } : undefined}>${column.title}</th>`)}</tr></thead>
      <tbody>${filler(first)}${shown}${filler(rows.length - last)}</tbody>
    </table>
  </div>`;
}
