// Answers as tables: the numbers as the API gave them, each with the question for the people behind it.
import { duration, Exact, html, number, percent, Table } from "../lib/page.js";
import { bucketName, utc } from "./buckets.js";
import { list } from "./question.js";
import { MATHS, OTHER, STATES, valueName } from "./words.js";

/** A number for arithmetic and charts. @param {any} value @returns {number} */
export const float = (value) => (value instanceof Exact ? Number(value.text) : typeof value === "number" ? value : 0);

/** @param {any} value @param {People | null} [people] @returns {Cell} */
const cell = (value, people) => ({ value, as: "number", people: people ?? null });
/** @param {string} value @param {string} [title] @returns {Cell} */
const text = (value, title) => ({ value, as: "text", ...(title ? { title } : {}) });

/** What lines of a trend are called: by their series where there are several, by their value, by their period. @param {any} question @param {any[]} lines */
export function lineNames(question, lines) {
  const series = list(question.series);
  const events = series.map((one) => one.event ?? "");
  /** @param {number} index */
  const seriesName = (index) => {
    const one = series[index] ?? {};
    const name = one.name ?? one.event ?? "Any event";
    // Two series of one event differ in what is counted of them.
    const twice = events.filter((event) => event === (one.event ?? "")).length > 1;
    return twice ? `${String.fromCharCode(65 + index)} ${name} (${mathName(one)})` : name;
  };
  const several = series.length > 1 || list(question.formulas).length > 1;
  return lines.map((line) => {
    const of = line.series === undefined ? line.label : seriesName(line.series);
    const value = line.breakdown === undefined ? "" : list(line.breakdown).map((one) => valueName(String(one))).join(" · ");
    const name = value === "" ? of : several ? `${of}: ${value}` : value;
    return line.compare_label === "previous" ? `${name} (before)` : name;
  });
}

/** @param {string} interval */
const capital = (interval) => interval.charAt(0).toUpperCase() + interval.slice(1);

/** @param {any} series */
function mathName({ math = "total", math_property: property }) {
  const name = MATHS.flatMap(({ choices }) => choices).find(([value]) => value === math)?.[1] ?? math;
  return property ? `${name} of ${property}` : name;
}

/** The people behind a number of a trend. @param {any} question @param {any} line @param {string | undefined} day @param {string} title @returns {People | null} */
export function trendPeople(question, line, day, title) {
  if (line.series === undefined || list(line.breakdown).includes(OTHER)) return null;
  // A running sum or a mean of several buckets is not of the people of one.
  if (day !== undefined && (question.display === "cumulative" || (question.smoothing ?? 1) > 1)) return null;
  /** @type {any} */
  const body = { trends: question, series: line.series };
  if (day !== undefined) body.day = day;
  if (line.breakdown !== undefined) body.breakdown = line.breakdown;
  if (line.compare_label === "previous") body.compare_label = "previous";
  return { path: "/api/query/trends/people", body, title };
}

/** @param {any} question @param {any} answer @returns {Grid} */
function trends(question, answer) {
  const lines = answer.results;
  const names = lineNames(question, lines);
  const { timezone: zone, interval } = answer.meta;
  const people = (/** @type {number} */ at, /** @type {string | undefined} */ day) =>
    trendPeople(question, lines[at], day, day === undefined ? (names[at] ?? "") : `${names[at]}, ${bucketName(day, interval, zone)}`);
  const whole = lines[0]?.aggregated_value !== undefined;
  if (whole) {
    const rows = lines.map((/** @type {any} */ line, /** @type {number} */ at) => [text(names[at] ?? ""), cell(line.aggregated_value, people(at, undefined))]);
    return { heads: [{ title: "Series" }, { title: "Number", right: true }], rows };
  }
  const days = lines[0]?.days ?? [];
  // Each period has days of its own; a row is the n-th bucket of both.
  const at = (/** @type {number} */ line, /** @type {number} */ bucket) => cell(lines[line].data[bucket], people(line, lines[line].days[bucket]));
  if (lines.length <= 12) {
    const heads = [{ title: capital(interval) }, ...names.map((title) => ({ title, right: true }))];
    const rows = days.map((/** @type {string} */ day, /** @type {number} */ bucket) => [text(bucketName(day, interval, zone), utc(day, zone)), ...lines.map((/** @type {any} */ _, /** @type {number} */ line) => at(line, bucket))]);
    rows.unshift([text("Sum"), ...lines.map((/** @type {any} */ line) => cell(line.count))]);
    return { heads, rows };
  }
  if (days.length <= 60) {
    const heads = [{ title: "Series" }, { title: "Sum", right: true }, ...days.map((/** @type {string} */ day) => ({ title: bucketName(day, interval, zone), hover: utc(day, zone), right: true }))];
    const rows = lines.map((/** @type {any} */ line, /** @type {number} */ index) => [text(names[index] ?? ""), cell(line.count), ...days.map((/** @type {string} */ _, /** @type {number} */ bucket) => at(index, bucket))]);
    return { heads, rows };
  }
  const rows = lines.flatMap((/** @type {any} */ line, /** @type {number} */ index) =>
    line.days.map((/** @type {string} */ day, /** @type {number} */ bucket) => [text(names[index] ?? ""), text(bucketName(day, interval, zone), utc(day, zone)), at(index, bucket)]));
  return { heads: [{ title: "Series" }, { title: capital(interval) }, { title: "Number", right: true }], rows };
}

/** @param {any} question @param {number} step @param {string} outcome @param {any} row @param {string} title @returns {People | null} */
export function funnelPeople(question, step, outcome, row, title) {
  if (outcome === "dropped" && step === 0) return null;
  if (row?.breakdown?.includes(OTHER)) return null;
  /** @type {any} */
  const body = { funnel: question, step, outcome };
  if (row?.breakdown) body.breakdown = row.breakdown;
  return { path: "/api/query/funnel/people", body, title };
}

/** The rows of a funnel: one, or one for each value. @param {any} results */
export const funnelRows = (results) => /** @type {any[]} */ (results.rows ?? [results]);
/** @param {any} row */
export const funnelRowName = (row) => (row.breakdown ? row.breakdown.map(valueName).join(" · ") : "");

/** @param {any} question @param {any} answer @returns {Grid} */
function funnel(question, answer) {
  const { results, meta } = answer;
  const rows = funnelRows(results);
  const split = rows[0]?.breakdown !== undefined || results.rows !== undefined;
  const lead = (/** @type {any} */ row) => (split ? [text(funnelRowName(row))] : []);
  const value = split ? [{ title: "Value" }] : [];
  const right = (/** @type {string} */ title) => ({ title, right: true });
  if (question.viz === "trends") {
    const interval = question.interval ?? "day";
    const cells = rows.flatMap((row) => results.days.map((/** @type {string} */ day, /** @type {number} */ at) => {
      const people = (/** @type {number} */ step) => {
        const asked = funnelPeople(question, step, "converted", row, `Step ${step + 1}, ${bucketName(day, interval, meta.timezone)}`);
        return asked && { ...asked, body: { ...asked.body, day } };
      };
      const [from, to] = [question.from_step ?? 0, question.to_step ?? list(question.steps).length - 1];
      return [...lead(row), text(bucketName(day, interval, meta.timezone), utc(day, meta.timezone)), cell(row.reached_from_step[at], people(from)), cell(row.reached_to_step[at], people(to)), { value: row.conversion_rate[at], as: /** @type {const} */ ("percent") }];
    }));
    return { heads: [...value, { title: capital(interval) }, right("Began"), right("Converted"), right("Rate")], rows: cells };
  }
  if (question.viz === "time_to_convert") {
    const cells = rows.flatMap((row) => row.bins.map((/** @type {[number, number]} */ [start, count]) => [...lead(row), { value: start, as: /** @type {const} */ ("seconds") }, cell(count)]));
    return { heads: [...value, { title: "From" }, right("People")], rows: cells };
  }
  const cells = rows.flatMap((row) => results.steps.map((/** @type {string} */ name, /** @type {number} */ step) => [
    ...lead(row), text(`${step + 1}. ${name}`),
    cell(row.counts[step], funnelPeople(question, step, "converted", row, `Took step ${step + 1}: ${name}`)),
    { value: row.conversion_rates[step], as: /** @type {const} */ ("percent") },
    cell(step === 0 ? null : row.counts[step - 1] - row.counts[step], funnelPeople(question, step, "dropped", row, `Did not come to step ${step + 1}: ${name}`)),
    { value: row.avg_seconds[step], as: /** @type {const} */ ("seconds") }, { value: row.median_seconds[step], as: /** @type {const} */ ("seconds") },
  ]));
  return { heads: [...value, { title: "Step" }, right("People"), right("Rate"), right("Dropped"), right("Mean time"), right("Median time")], rows: cells };
}

/** The tables of a retention: one, or one for each value. @param {any} results @returns {{breakdown?: string, rows: number[][]}[]} */
export const retentionTables = (results) => results.breakdowns ?? [{ rows: results.rows }];

/** @param {any} question @param {any} answer @returns {Grid} */
function retention(question, answer) {
  const { results, meta } = answer;
  const period = question.period ?? "day";
  const tables = retentionTables(results);
  const split = results.breakdowns !== undefined;
  const heads = [...(split ? [{ title: "Value" }] : []), { title: "Began" }, { title: "People", right: true }, ...results.days.slice(1).map((/** @type {string} */ _, /** @type {number} */ at) => ({ title: `${period} ${at + 1}`, right: true }))];
  const rows = tables.flatMap((table) => table.rows.map((cells, row) => {
    /** @type {any} */
    const body = { retention: question, row };
    if (table.breakdown !== undefined) body.breakdown = table.breakdown;
    const name = bucketName(results.days[row], period, meta.timezone);
    const people = table.breakdown === OTHER ? null : { path: "/api/query/retention/people", body, title: `Began ${name}` };
    return [...(split ? [text(valueName(table.breakdown ?? ""))] : []), text(name, utc(results.days[row], meta.timezone)), ...cells.map((count) => cell(count, people)), ...Array.from({ length: row }, () => text(""))];
  }));
  return { heads, rows };
}

/** @param {any} question @param {any} answer @returns {Grid} */
function lifecycle(question, answer) {
  const { results, meta } = answer;
  const heads = [{ title: capital(meta.interval) }, ...STATES.map((state) => ({ title: capital(state), right: true }))];
  const rows = results.days.map((/** @type {string} */ day, /** @type {number} */ at) => {
    const name = bucketName(day, meta.interval, meta.timezone);
    return [text(name, utc(day, meta.timezone)), ...STATES.map((state) => cell(results[state][at], lifecyclePeople(question, day, state, name)))];
  });
  return { heads, rows };
}

/** @param {any} question @param {string} day @param {string} state @param {string} name @returns {People} */
export const lifecyclePeople = (question, day, state, name) => ({ path: "/api/query/lifecycle/people", body: { lifecycle: question, day, state }, title: `${state}, ${name}` });

/** @param {any} question @param {number} series @param {number} intervals @param {string} name @returns {People} */
export const stickinessPeople = (question, series, intervals, name) => ({ path: "/api/query/stickiness/people", body: { stickiness: question, series, intervals }, title: `${name}: active in ${intervals}` });

/** @param {any} line @param {number} index */
export const stickinessName = (line, index) => `${String.fromCharCode(65 + index)} ${line.event ?? "Any event"}${line.compare_label === "previous" ? " (before)" : ""}`;

/** Which series of the question each line is of. @param {any} results */
export const stickinessSeries = (results) => {
  const periods = results.series[0]?.compare_label ? 2 : 1;
  return results.series.map((/** @type {any} */ _, /** @type {number} */ at) => Math.floor(at / periods));
};

/** @param {any} question @param {any} answer @returns {Grid} */
function stickiness(question, answer) {
  const { results, meta } = answer;
  const of = stickinessSeries(results);
  const names = results.series.map((/** @type {any} */ line, /** @type {number} */ at) => stickinessName(line, of[at]));
  const length = Math.max(0, ...results.series.map((/** @type {any} */ line) => line.data.length));
  const rows = Array.from({ length }, (_, at) => [
    cell(at + 1),
    ...results.series.map((/** @type {any} */ line, /** @type {number} */ index) => cell(line.data[at] ?? null, line.compare_label === "previous" ? null : stickinessPeople(question, of[index], at + 1, names[index]))),
  ]);
  return { heads: [{ title: `${capital(meta.interval)}s`, right: true }, ...names.map((/** @type {string} */ title) => ({ title, right: true }))], rows };
}

/** A node of a path without its place. @param {string} node */
export const nodeName = (node) => node.replace(/^\d+_/, "");
/** @param {string} node */
export const nodePlace = (node) => Number(/^(\d+)_/.exec(node)?.[1] ?? 0);

/** @param {any} question @param {any} link @returns {People} */
export const pathPeople = (question, link) => ({ path: "/api/query/paths/people", body: { paths: question, source: link.source, target: link.target }, title: `${nodeName(link.source)} → ${nodeName(link.target)}` });

/** @param {any} question @param {any} answer @returns {Grid} */
function paths(question, answer) {
  const rows = answer.results.links.map((/** @type {any} */ link) => [
    cell(nodePlace(link.source)), text(nodeName(link.source)), text(nodeName(link.target)), cell(link.value, pathPeople(question, link)),
    { value: link.average_conversion_ms / 1000, as: /** @type {const} */ ("seconds") },
  ]);
  return { heads: [{ title: "Place", right: true }, { title: "From" }, { title: "To" }, { title: "Paths", right: true }, { title: "Mean time", right: true }], rows };
}

const GRIDS = { trends, funnel, retention, lifecycle, stickiness, paths };

/** The answer as a table. @param {Kind} kind @param {any} question as it was sent @param {any} answer @returns {Grid} */
export const grid = (kind, question, answer) => GRIDS[kind](question, answer);

/** Has the answer anything to show? @param {Kind} kind @param {any} answer */
export function isEmpty(kind, answer) {
  const { results } = answer;
  const zero = (/** @type {any[]} */ all) => all.every((one) => float(one) === 0);
  switch (kind) {
    case "trends":
      return results.every((/** @type {any} */ line) => zero(line.data) && float(line.aggregated_value ?? 0) === 0);
    case "funnel":
      return funnelRows(results).every((row) => zero(row.counts ?? row.reached_from_step ?? (row.bins ?? []).map((/** @type {any} */ bin) => bin[1])));
    case "retention":
      return retentionTables(results).every((table) => table.rows.every(zero));
    case "lifecycle":
      return STATES.every((state) => zero(results[state]));
    case "stickiness":
      return results.series.every((/** @type {any} */ line) => zero(line.data));
    case "paths":
      return results.links.length === 0;
  }
}

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
