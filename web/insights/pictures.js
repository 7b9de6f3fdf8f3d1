// An answer as a picture. The table beside it has every number; a point, a bar or a cell leads to its people.
import { Chart } from "../lib/chart.js";
import { duration, html, Link, number, percent } from "../lib/page.js";
import { bucketName, unfinished, utc } from "./buckets.js";
import { Bars, float, funnelPeople, funnelRowName, funnelRows, lifecyclePeople, lineNames, retentionTables, stickinessName, stickinessPeople, stickinessSeries, trendPeople, Value } from "./grid.js";
import { address, list } from "./question.js";
import { Sankey } from "./sankey.js";
import { OTHER, STATES, valueName } from "./words.js";

/** Lines that a chart can show and a reader tell apart; the table has all. */
const LINES_MAX = 30;

/** A bucket on the axis: shorter than its name. @param {string[]} days @param {string} interval @param {string} zone */
function axis(days, interval, zone) {
  const dated = interval === "day" || interval === "week";
  return days.map((day) => (dated ? new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", timeZone: "UTC" }).format(Date.parse(`${day}T00:00:00Z`)) : bucketName(day, interval, zone)));
}

/** @param {PictureProps} props */
function Trends({ question, answer, onPeople, height }) {
  const lines = answer.results;
  const names = lineNames(question, lines);
  const { display } = question;
  const whole = lines[0]?.aggregated_value !== undefined;
  if (whole) {
    const items = lines.map((/** @type {any} */ line, /** @type {number} */ at) => {
      const people = trendPeople(question, line, undefined, names[at] ?? "");
      return { name: names[at] ?? "", value: float(line.aggregated_value), cell: { value: line.aggregated_value, as: "number", people } };
    });
    if (display === "bold_number" && items.length <= 8) {
      return html`<div class="tiles">${items.map((/** @type {any} */ item) => html`<div class="tile"><div class="value"><${Value} cell=${item.cell} onPeople=${onPeople} /></div><bdi class="what">${item.name}</bdi></div>`)}</div>`;
    }
    return display === "table" ? null : html`<${Bars} items=${items.slice(0, 100)} shares=${display === "pie"} onPeople=${onPeople} />`;
  }
  const { interval, timezone: zone } = answer.meta;
  const days = lines[0]?.days ?? [];
  const drawn = lines.slice(0, LINES_MAX);
  const series = drawn.map((/** @type {any} */ line, /** @type {number} */ at) => ({ label: names[at] ?? "", values: line.data.map(float), dashed: line.compare_label === "previous" }));
  const point = (/** @type {number} */ at, /** @type {number} */ bucket) => {
    const line = drawn[at];
    const day = line?.days[bucket];
    const people = line && day !== undefined ? trendPeople(question, line, day, `${names[at]}, ${bucketName(day, interval, zone)}`) : null;
    if (people && onPeople) onPeople(people);
  };
  const kind = display === "area" || display === "bar" ? display : "line";
  return html`<${Chart} label="Trend" x=${axis(days, interval, zone)} series=${series} kind=${kind} height=${height ?? 300} partial=${unfinished(days, answer.meta)} onPoint=${point} />
    ${lines.length > LINES_MAX && html`<p class="muted small">The chart shows the first ${LINES_MAX} of ${number(lines.length)} lines; the table has all.</p>`}`;
}

/** @param {PictureProps} props */
function Funnel({ question, answer, onPeople, height }) {
  const { results, meta } = answer;
  const rows = funnelRows(results).slice(0, LINES_MAX);
  if (question.viz === "trends") {
    const series = rows.map((row) => ({ label: funnelRowName(row) || "Conversion, %", values: row.conversion_rate.map(float) }));
    const point = (/** @type {number} */ at, /** @type {number} */ bucket) => {
      const step = question.to_step ?? list(question.steps).length - 1;
      const people = funnelPeople(question, step, "converted", rows[at], `Converted, began ${bucketName(results.days[bucket], question.interval ?? "day", meta.timezone)}`);
      if (people && onPeople) onPeople({ ...people, body: { ...people.body, day: results.days[bucket] } });
    };
    return html`<${Chart} label="Conversion over time, in percent" x=${axis(results.days, question.interval ?? "day", meta.timezone)} series=${series} height=${height ?? 300} partial=${unfinished(results.days, meta)} onPoint=${point} />`;
  }
  if (question.viz === "time_to_convert") {
    const bins = rows[0]?.bins ?? [];
    const series = rows.map((row) => ({ label: funnelRowName(row) || "People", values: row.bins.map((/** @type {any} */ bin) => bin[1]) }));
    const average = rows[0]?.average;
    return html`<${Chart} label="Time to convert" kind="bar" x=${bins.map((/** @type {any} */ bin) => duration(bin[0]))} series=${series} height=${height ?? 300} />
      ${average !== null && average !== undefined && rows.length === 1 && html`<p class="muted">Mean: ${duration(float(average))}</p>`}`;
  }
  return html`<ol class="funnel" data-testid="funnel">${results.steps.map(
    (/** @type {string} */ name, /** @type {number} */ step) => html`<li key=${step}>
      <div class="step"><span class="letter" aria-hidden="true">${step + 1}</span> <bdi><strong>${name}</strong></bdi>
        ${onPeople && html`<span class="small"><${Link} href=${around(question, step, "before")}>paths before<//> · <${Link} href=${around(question, step, "after")}>paths after<//>${step > 0 && html` · <${Link} href=${around(question, step, "between")}>in between<//>`}</span>`}</div>
      ${rows.map((row, at) => html`<${FunnelBar} key=${at} question=${question} name=${name} row=${row} step=${step} at=${at} onPeople=${onPeople} />`)}
    </li>`,
  )}</ol>`;
}

/** What people did around a step of the funnel. @param {any} question @param {number} step @param {string} part */
function around(question, step, part) {
  const { date_from, date_to, timezone } = question;
  return address("paths", { date_from, date_to, timezone, funnel: { funnel: question, step, part } });
}

/** @param {any} props */
function FunnelBar({ question, name, row, step, at, onPeople }) {
  const rate = float(row.conversion_rates[step]);
  const dropped = step === 0 ? 0 : row.counts[step - 1] - row.counts[step];
  const median = row.median_seconds[step];
  const converted = funnelPeople(question, step, "converted", row, `Took step ${step + 1}: ${name}`);
  const lost = funnelPeople(question, step, "dropped", row, `Did not come to step ${step + 1}: ${name}`);
  return html`<div class="funnel-bar">
    ${row.breakdown && html`<bdi class="ellipsis value-name" title=${funnelRowName(row)}>${funnelRowName(row)}</bdi>`}
    <span class="track"><span class="fill" style=${{ width: `${rate}%`, background: `var(--series-${(at % 10) + 1})` }}></span></span>
    <span class="numbers"><${Value} cell=${{ value: row.counts[step], as: "number", people: converted }} onPeople=${onPeople} /> <span>${percent(rate / 100)}</span>
      ${step > 0 && html`<span class="muted">lost <${Value} cell=${{ value: dropped, as: "number", people: lost }} onPeople=${onPeople} /></span>`}
      ${median !== null && median !== undefined && html`<span class="muted" title="Half of the people were faster">${duration(float(median))}</span>`}</span>
  </div>`;
}

/** Rows and columns of a picture of retention; the table has all. */
const CELLS_MAX = 31;

/** @param {PictureProps} props */
function Retention({ question, answer, onPeople, height }) {
  const { results, meta } = answer;
  const tables = retentionTables(results).slice(0, 10);
  const period = question.period ?? "day";
  const names = tables.map((table) => (table.breakdown === undefined ? "Came back, %" : valueName(table.breakdown)));
  const curves = tables.map((table, at) => ({ label: names[at] ?? "", values: curve(table.rows) }));
  const length = Math.max(0, ...curves.map(({ values }) => values.length));
  return html`
    ${length > 1 && html`<${Chart} label="Of those who began, how many came back, in percent" height=${height ?? 200} x=${Array.from({ length }, (_, at) => `${period} ${at}`)} series=${curves} />`}
    ${tables.map((table, at) => html`<${Heat} key=${at} name=${tables.length > 1 ? names[at] : ""} table=${table} days=${results.days} period=${period} zone=${meta.timezone} question=${question} onPeople=${onPeople} />`)}`;
}

/** Of everybody who could have come back after n intervals, the percent that did. @param {number[][]} rows */
export function curve(rows) {
  return Array.from({ length: rows[0]?.length ?? 0 }, (_, n) => {
    const able = rows.filter((cells) => n < cells.length);
    const began = able.reduce((sum, cells) => sum + (cells[0] ?? 0), 0);
    const back = able.reduce((sum, cells) => sum + (cells[n] ?? 0), 0);
    return began === 0 ? null : Math.round((10_000 * back) / began) / 100;
  });
}

/** @param {any} props */
function Heat({ name, table, days, period, zone, question, onPeople }) {
  const first = Math.max(0, table.rows.length - CELLS_MAX);
  const shownRows = table.rows.slice(first);
  const width = Math.min(CELLS_MAX, shownRows[0]?.length ?? 0);
  const open = (/** @type {number} */ row, /** @type {string} */ title) => {
    if (table.breakdown === OTHER) return;
    onPeople?.({ path: "/api/query/retention/people", body: { retention: question, row, ...(table.breakdown === undefined ? {} : { breakdown: table.breakdown }) }, title });
  };
  return html`<div class="table"><table class="heat" aria-label=${`Retention ${name}`}>
    ${name && html`<caption><bdi>${name}</bdi></caption>`}
    <thead><tr><th scope="col">Began</th><th scope="col" class="right">People</th>${Array.from({ length: Math.max(0, width - 1) }, (_, n) => html`<th scope="col" class="right">${period} ${n + 1}</th>`)}</tr></thead>
    <tbody>${shownRows.map((/** @type {number[]} */ cells, /** @type {number} */ at) => {
      const row = first + at;
      const day = bucketName(days[row], period, zone);
      return html`<tr key=${row}><th scope="row" title=${utc(days[row], zone)}>${day}</th>
        ${cells.slice(0, width).map((count, n) => {
          const share = cells[0] ? count / cells[0] : 0;
          const words = n === 0 ? number(count) : cells[0] ? percent(share) : "–";
          const label = `Began ${day}, ${n === 0 ? "all" : `${period} ${n}`}: ${number(count)}`;
          return html`<td class="right" style=${n > 0 ? { background: `color-mix(in srgb, var(--accent) ${Math.round(share * 45)}%, transparent)` } : undefined}>
            <button type="button" class="quiet value" title=${label} aria-label=${label} disabled=${!cells[0]} onClick=${() => open(row, `Began ${day}`)}>${words}</button></td>`;
        })}</tr>`;
    })}</tbody>
  </table></div>`;
}

/** @param {PictureProps} props */
function Lifecycle({ question, answer, onPeople, height }) {
  const { results, meta } = answer;
  const colors = ["--series-1", "--series-3", "--series-4", "--series-2"];
  const style = getComputedStyle(document.documentElement);
  const series = STATES.map((state, at) => ({ label: state, values: results[state], color: style.getPropertyValue(colors[at] ?? "").trim() }));
  const point = (/** @type {number} */ at, /** @type {number} */ bucket) => {
    const state = STATES[at];
    const day = results.days[bucket];
    if (state && day) onPeople?.(lifecyclePeople(question, day, state, bucketName(day, meta.interval, meta.timezone)));
  };
  return html`<${Chart} label="Lifecycle" kind="stacked" x=${axis(results.days, meta.interval, meta.timezone)} series=${series} height=${height ?? 300} onPoint=${point} />`;
}

/** @param {PictureProps} props */
function Stickiness({ question, answer, onPeople, height }) {
  const { results, meta } = answer;
  const of = stickinessSeries(results);
  const series = results.series.map((/** @type {any} */ line, /** @type {number} */ at) => ({ label: stickinessName(line, of[at]), values: line.data, dashed: line.compare_label === "previous" }));
  const length = Math.max(0, ...series.map((/** @type {any} */ one) => one.values.length));
  const point = (/** @type {number} */ at, /** @type {number} */ place) => {
    const line = results.series[at];
    if (line && line.compare_label !== "previous") onPeople?.(stickinessPeople(question, of[at], place + 1, series[at]?.label ?? ""));
  };
  const unit = (/** @type {number} */ count) => `${count} ${meta.interval}${count === 1 ? "" : "s"}`;
  return html`<${Chart} label="Stickiness" kind=${series.length === 1 ? "bar" : "line"} x=${Array.from({ length }, (_, at) => unit(at + 1))} series=${series} height=${height ?? 300} onPoint=${point} />`;
}

/** @param {PictureProps} props */
const Paths = ({ question, answer, onPeople, height }) => html`<${Sankey} question=${question} links=${answer.results.links} onPeople=${onPeople} height=${height} />`;

const PICTURES = { trends: Trends, funnel: Funnel, retention: Retention, lifecycle: Lifecycle, stickiness: Stickiness, paths: Paths };

/** @param {PictureProps & {kind: Kind}} props */
export const Picture = ({ kind, ...rest }) => html`<div class="picture"><${PICTURES[kind]} ...${rest} /></div>`;
