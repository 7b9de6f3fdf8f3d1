// Numbers of an answer as they are shown, and as buttons that show the people behind them.
import { duration, Exact, html, number, percent, Table } from "../lib/page.js";

/** @param {Cell} cell @returns {string} */
export function shown({ value, as }) {
  if (value === null || value === undefined) return "–";
  if (as === "text" || as === undefined) return String(value);
  const plain = value instanceof Exact ? Number(value.text) : value;
  if (as === "percent") return percent(plain / 100);
  if (as === "seconds") return duration(plain);
  return number(value);
}

/** A number; where it has people, a button. @param {{cell: Cell, onPeople?: OnPeople | undefined}} props */
export function Value({ cell, onPeople }) {
  const text = shown(cell);
  const { people } = cell;
  const none = cell.value === 0 || cell.value === null;
  if (!people || !onPeople || none) return html`<bdi title=${cell.title}>${text}</bdi>`;
  return html`<button type="button" class="quiet value" data-testid="drill" aria-label=${`${text}: show the people, ${people.title}`} onClick=${() => onPeople(people)}>${text}</button>`;
}

/**
 * An answer as a table.
 * @param {GridTableProps} props
 */
export function GridTable({ grid, label, onPeople, height }) {
  const columns = grid.heads.map(({ title, hover, right }, at) => ({
    key: String(at),
    title: hover ? html`<span title=${hover}>${title}</span>` : html`<bdi>${title}</bdi>`,
    right,
    cell: (/** @type {Cell[]} */ row) => html`<${Value} cell=${row[at] ?? { value: null }} onPeople=${onPeople} />`,
  }));
  return html`<${Table} columns=${columns} rows=${grid.rows} label=${label} height=${height} testid="answer-table" />`;
}

/**
 * Numbers as bars beside each other: of all of them, or of the greatest.
 * @param {BarsProps} props
 */
export function Bars({ items, shares, onPeople }) {
  const sum = items.reduce((all, { value }) => all + Math.max(0, value), 0);
  const most = Math.max(1e-9, ...items.map(({ value }) => Math.abs(value)));
  return html`<ol class="bars">${items.map(
    ({ name, cell, value }, index) => html`<li key=${index}>
      <bdi class="ellipsis" title=${name}>${name}</bdi>
      <span class="track"><span class="fill" style=${{ width: `${Math.max(0, (100 * Math.abs(value)) / (shares ? sum || 1 : most))}%`, background: `var(--series-${(index % 10) + 1})` }}></span></span>
      <span class="right"><${Value} cell=${cell} onPeople=${onPeople} />${shares && sum > 0 ? html` <span class="muted">${percent(Math.max(0, value) / sum)}</span>` : null}</span>
    </li>`,
  )}</ol>`;
}
