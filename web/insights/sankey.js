// Paths as a flow: a column for each place, a band for each edge.
import { html, number } from "../lib/page.js";
import { nodeName, nodePlace, pathPeople } from "./grid.js";

const COLUMN = 230;
const NODE = 12;
const GAP = 14;
const LEAST = 2;

/**
 * Where nodes and bands stand. Pure.
 * @param {SankeyLink[]} links
 * @param {number} height
 * @returns {{nodes: SankeyNode[], bands: Band[], width: number, height: number}}
 */
export function layout(links, height) {
  /** @type {Map<string, SankeyNode>} */
  const nodes = new Map();
  const node = (/** @type {string} */ id) => {
    const known = nodes.get(id);
    if (known) return known;
    const made = { id, x: 0, y: 0, height: 0, weight: 0, out: 0, into: 0 };
    nodes.set(id, made);
    return made;
  };
  for (const { source, target, value } of links) {
    node(source).out += value;
    node(target).into += value;
  }
  /** @type {Map<number, SankeyNode[]>} */
  const columns = new Map();
  for (const one of nodes.values()) {
    one.weight = Math.max(one.out, one.into);
    const place = nodePlace(one.id);
    columns.set(place, [...(columns.get(place) ?? []), one]);
  }
  const places = [...columns.keys()].sort((a, b) => a - b);
  const fullest = Math.max(1, ...[...columns.values()].map((all) => all.reduce((sum, { weight }) => sum + weight, 0)));
  const most = Math.max(1, ...[...columns.values()].map((all) => all.length));
  const tall = Math.max(height, most * (GAP + 8));
  const scale = Math.max(0, tall - (most - 1) * GAP - 20) / fullest;
  let lowest = 0;
  for (const [index, place] of places.entries()) {
    let y = 20;
    for (const one of (columns.get(place) ?? []).sort((a, b) => b.weight - a.weight || a.id.localeCompare(b.id))) {
      one.x = index * COLUMN;
      one.y = y;
      one.height = Math.max(LEAST, one.weight * scale);
      y += one.height + GAP;
    }
    lowest = Math.max(lowest, y);
  }
  /** @type {Map<string, {out: number, into: number}>} */
  const used = new Map([...nodes.keys()].map((id) => [id, { out: 0, into: 0 }]));
  const at = (/** @type {string} */ id) => nodes.get(id)?.y ?? 0;
  const bands = [...links].sort((a, b) => at(a.target) - at(b.target) || at(a.source) - at(b.source)).map((link) => {
    const [from, to] = [node(link.source), node(link.target)];
    const [left, right] = [used.get(link.source) ?? { out: 0, into: 0 }, used.get(link.target) ?? { out: 0, into: 0 }];
    const width = Math.max(1, link.value * scale);
    const [y1, y2] = [from.y + left.out + width / 2, to.y + right.into + width / 2];
    left.out += width;
    right.into += width;
    const [x1, x2] = [from.x + NODE, to.x];
    const middle = (x1 + x2) / 2;
    return { ...link, width, path: `M${x1},${y1} C${middle},${y1} ${middle},${y2} ${x2},${y2}` };
  });
  return { nodes: [...nodes.values()], bands, width: Math.max(1, places.length) * COLUMN, height: Math.max(lowest, 60) };
}

/** Of an address the end tells most, of a name the beginning. @param {string} text */
function short(text) {
  const bare = text.replace(/^https?:\/\//, "");
  if (bare.length <= 26) return bare;
  return bare.includes("/") ? `…${bare.slice(-25)}` : `${bare.slice(0, 25)}…`;
}

/** @param {SankeyProps} props */
export function Sankey({ question, links, onPeople, height = 360 }) {
  const { nodes, bands, width, height: tall } = layout(links, height);
  /** @param {any} event @param {SankeyLink} link */
  const key = (event, link) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    onPeople?.(pathPeople(question, link));
  };
  return html`<div class="sankey" data-testid="sankey"><svg width=${width} height=${tall} viewBox=${`0 0 ${width} ${tall}`} role="group" aria-label="Paths; the table has the numbers">
    ${bands.map((band) => {
      const words = `${nodeName(band.source)} → ${nodeName(band.target)}: ${number(band.value)} paths`;
      return html`<path key=${`${band.source} ${band.target}`} class="band" d=${band.path} stroke-width=${band.width} role="button" tabindex="0" aria-label=${`${words}, show the people`}
        onClick=${() => onPeople?.(pathPeople(question, band))} onKeyDown=${(event) => key(event, band)}><title>${words}</title></path>`;
    })}
    ${nodes.map(
      (node) => html`<g key=${node.id}>
        <rect class="node" x=${node.x} y=${node.y} width=${NODE} height=${node.height} rx="2"><title>${`${nodeName(node.id)}: ${number(node.weight)}`}</title></rect>
        <text x=${node.x + NODE + 5} y=${node.y + Math.min(node.height / 2 + 4, node.height + 4)}>${short(nodeName(node.id))}<tspan class="count" dx="6">${number(node.weight)}</tspan></text>
      </g>`,
    )}
  </svg></div>`;
}
