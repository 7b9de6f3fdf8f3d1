// When: the range of time, what it is cut into, by which zone's clocks, beside which other period.
import { Field, html, useState, zones } from "../lib/page.js";
import { Choice, Text, Whole } from "./fields.js";
import { INTERVALS, RANGES } from "./words.js";

const OWN = "own";
/** @type {[string, string][]} */
const WEEKS = [["", "Week from Sunday"], ["monday", "Week from Monday"]];
/** @type {[string, string][]} */
const COMPARED = [["", "No comparison"], ["before", "Beside the period before"], ["-1d", "Beside a day before"], ["-1w", "Beside a week before"], ["-1m", "Beside a month before"], ["-1y", "Beside a year before"]];

/** A range as one word. @param {Question} question */
const written = (question) => `${question.date_from ?? "-7d"}|${question.date_to ?? ""}`;

/**
 * @param {RangeProps} props
 */
export function Range({ question, onChange, interval, compare }) {
  const known = RANGES.find(([from, to]) => `${from}|${to}` === written(question));
  const [own, setOwn] = useState(!known);
  /** @type {[string, string][]} */
  const choices = [...RANGES.map(([from, to, label]) => /** @type {[string, string]} */ ([`${from}|${to}`, label])), [OWN, "Own range…"]];
  /** @param {string} next */
  const choose = (next) => {
    if (next === OWN) return setOwn(true);
    const [from, to] = next.split("|");
    setOwn(false);
    onChange({ date_from: from, date_to: to || undefined });
  };
  const showOwn = own || !known;
  return html`<${Field} label="Range"><${Choice} label="Range" testid="range" value=${showOwn ? OWN : written(question)} choices=${choices} onChange=${choose} /><//>
    ${showOwn &&
    html`<${Field} label="From"><${Text} label="From" testid="date-from" value=${question.date_from} placeholder="2026-01-31 or -7d" onChange=${(date_from) => onChange({ date_from: date_from || undefined })} /><//>
      <${Field} label="To"><${Text} label="To" testid="date-to" value=${question.date_to} placeholder="now" onChange=${(date_to) => onChange({ date_to: date_to || undefined })} /><//>`}
    ${interval && html`<${Field} label="By"><${Choice} label="Interval" testid="interval" value=${question.interval ?? "day"} choices=${INTERVALS} onChange=${(next) => onChange({ interval: next })} /><//>`}
    ${compare && html`<${Compare} question=${question} onChange=${onChange} />`}
    <${Zone} question=${question} onChange=${onChange} />`;
}

/** @param {CompareProps} props */
function Compare({ question, onChange }) {
  const value = question.compare_to ?? (question.compare ? "before" : "");
  /** @param {string} next */
  const choose = (next) => onChange({ compare: next === "before" || undefined, compare_to: next.startsWith("-") ? next : undefined });
  return html`<${Field} label="Compare"><${Choice} label="Compare" testid="compare" value=${value} choices=${COMPARED} onChange=${choose} /><//>`;
}

/** @param {ZoneProps} props */
export function Zone({ question, onChange }) {
  const choices = zones().map((name) => /** @type {[string, string]} */ ([name, name]));
  const weeks = question.interval === "week" || question.period === "week";
  return html`<${Field} label="Time zone"><${Choice} label="Time zone" testid="timezone" value=${question.timezone ?? "UTC"} choices=${choices} onChange=${(timezone) => onChange({ timezone })} /><//>
    ${weeks && html`<${Field} label="Weeks"><${Choice} label="First day of the week" value=${question.week_start ?? ""} choices=${WEEKS} onChange=${(week_start) => onChange({ week_start: week_start || undefined })} /><//>`}`;
}

/** The last intervals up to a day. @param {PeriodsProps} props */
export function Periods({ question, onChange }) {
  /** @type {[string, string][]} */
  const units = [["hour", "hours"], ["day", "days"], ["week", "weeks"], ["month", "months"]];
  return html`<${Field} label="The last"><${Whole} label="Intervals" testid="intervals" value=${question.total_intervals} max=${400} placeholder="7" onChange=${(total_intervals) => onChange({ total_intervals })} /><//>
    <${Field} label="of"><${Choice} label="Length of an interval" testid="period" value=${question.period ?? "day"} choices=${units} onChange=${(period) => onChange({ period })} /><//>
    <${Field} label="Up to"><${Text} label="Up to" testid="date-to" value=${question.date_to} placeholder="now" onChange=${(date_to) => onChange({ date_to: date_to || undefined })} /><//>
    <${Zone} question=${question} onChange=${onChange} />`;
}

