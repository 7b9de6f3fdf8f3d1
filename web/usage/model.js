// Usage as it is asked and told. A total is text from the API to the screen and into the file: it never becomes a float.
import { post } from "../lib/page.js";
import { begins } from "../insights/buckets.js";

/** @type {[string, string][]} */
export const RANGES = [["today", "Today"], ["7d", "Last 7 days"], ["30d", "Last 30 days"], ["month", "This month"], ["last-month", "Last month"], ["year", "This year"], ["own", "Own range…"]];
/** @type {[string, string][]} */
export const WINDOWS = [["", "The whole range"], ["MINUTE", "1 minute"], ["15MIN", "15 minutes"], ["30MIN", "30 minutes"], ["HOUR", "1 hour"], ["3HOUR", "3 hours"], ["6HOUR", "6 hours"], ["12HOUR", "12 hours"], ["DAY", "1 day"], ["WEEK", "1 week"], ["MONTH", "1 month"]];

/** @param {URLSearchParams} query @param {string} zone @returns {State} */
export function stateOf(query, zone) {
  const of = (/** @type {string} */ name, /** @type {string} */ otherwise) => query.get(name) ?? otherwise;
  return { range: of("range", "month"), from: of("from", ""), to: of("to", ""), window: of("window", "DAY"), by: of("by", ""), customer: of("customer", ""), zone: of("zone", zone) };
}

/** The date that a zone's calendars show. @param {number} at @param {string} zone */
function dateIn(at, zone) {
  const parts = new Intl.DateTimeFormat("en-CA", { timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit" }).formatToParts(at);
  const of = (/** @type {string} */ type) => parts.find((part) => part.type === type)?.value ?? "";
  return `${of("year")}-${of("month")}-${of("day")}`;
}

/** @param {string} date @param {number} days */
const plusDays = (date, days) => new Date(Date.parse(`${date}T00:00:00Z`) + days * 86_400_000).toISOString().slice(0, 10);

/**
 * The moments that a range means; one that is still running ends now.
 * @param {State} state @param {number} now
 * @returns {Span}
 */
export function spanOf(state, now) {
  const { zone } = state;
  const start = (/** @type {string} */ date) => new Date(begins(date, zone)).toISOString();
  const today = dateIn(now, zone);
  const month = `${today.slice(0, 8)}01`;
  const until = new Date(now).toISOString();
  switch (state.range) {
    case "today": return { start: start(today), end: until };
    case "7d": return { start: start(plusDays(today, -7)), end: until };
    case "30d": return { start: start(plusDays(today, -30)), end: until };
    case "last-month": return { start: start(`${plusDays(month, -1).slice(0, 8)}01`), end: start(month) };
    case "year": return { start: start(`${today.slice(0, 5)}01-01`), end: until };
    case "own": {
      const from = /^\d{4}-\d\d-\d\d$/.test(state.from) ? state.from : month;
      const to = /^\d{4}-\d\d-\d\d$/.test(state.to) ? state.to : today;
      return { start: start(from), end: start(plusDays(to, 1)) };
    }
    default: return { start: start(month), end: until };
  }
}

/** What a meter measures, in words. @param {Meter} meter */
export function measures(meter) {
  const { type, field, expression } = meter.aggregation ?? {};
  const what = expression || field;
  return `${type ?? "?"}${what ? ` of ${what}` : ""} over ${meter.event_name}`;
}

/**
 * The question for a meter's usage.
 * @param {string} meterId @param {State} state @param {Span} span @param {{window?: string, by?: string}} [more]
 */
export function question(meterId, state, span, more = {}) {
  const { window = state.window, by = state.by } = more;
  return {
    meter_id: meterId, start_time: span.start, end_time: span.end, timezone: state.zone,
    ...(window ? { window_size: window } : {}), ...(by ? { group_by: [by] } : {}), ...(state.customer ? { external_customer_id: state.customer } : {}),
  };
}

/** Asks about many, a few at a time. @template T, R @param {T[]} all @param {(one: T) => Promise<R>} ask @returns {Promise<R[]>} */
export async function each(all, ask) {
  /** @type {R[]} */
  const answers = new Array(all.length);
  let next = 0;
  const worker = async () => {
    for (let at = next++; at < all.length; at = next++) answers[at] = await ask(/** @type {T} */ (all[at]));
  };
  await Promise.all([worker(), worker(), worker()]);
  return answers;
}

/** @param {any} asked @param {AbortSignal} signal */
export const usage = (asked, signal) => post("/v1/events/usage/meter", asked, { signal });

/** A text as a field of CSV; what a spreadsheet would take for a formula is made a text. @param {string} text */
function field(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/**
 * Rows as a file: texts made safe, numbers to their last digit.
 * @param {string[]} heads @param {{text?: string, number?: string | number}[][]} rows
 */
export function csv(heads, rows) {
  const line = (/** @type {string[]} */ fields) => `${fields.join(",")}\r\n`;
  return line(heads.map(field)) + rows.map((row) => line(row.map((one) => (one.number !== undefined ? String(one.number) : field(one.text ?? ""))))).join("");
}

/**
 * The list of events behind a number, as the API's list takes it.
 * @param {Meter} meter @param {State} state @param {Span} span @param {string} by @param {string | undefined} group
 * @returns {Record<string, any>}
 */
export function eventsOf(meter, state, span, by, group) {
  const filters = meter.filters.map(({ key, values }) => ({ key, operator: "exact", value: values }));
  let { customer } = state;
  /** @type {any[]} */
  const more = [];
  if (group !== undefined && by === "external_customer_id") customer = group;
  else if (group !== undefined && by !== "") {
    const property = by.startsWith("properties.");
    const key = property ? by.slice("properties.".length) : by;
    const type = property ? {} : { type: "event_metadata" };
    more.push(group === "" ? { ...type, key, operator: "is_not_set" } : { ...type, key, operator: "exact", value: [group] });
  }
  const properties = [...filters, ...more];
  return {
    event: meter.event_name, distinct_id: customer, date_from: span.start, date_to: new Date(Date.parse(span.end) - 1).toISOString(),
    ...(properties.length > 0 ? { properties: JSON.stringify(properties) } : {}),
  };
}
