// Numbers, times and sizes as the reader is used to them.
import { Exact } from "./json.js";
import { session } from "./session.js";
import { computed, html, signal } from "./ui.js";

const ZONE = "flexflow.zone";
const own = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

/** The zone that the reader chose; none: the project's. */
export const ownZone = signal(localStorage.getItem(ZONE) ?? "");
export const projectZone = computed(() => session.place().project?.time_zone ?? "UTC");
/** The zone that times are shown in, and questions are asked in. */
export const zone = computed(() => ownZone.value || projectZone.value);

/** @param {string} name */
export function setZone(name) {
  localStorage.setItem(ZONE, name);
  ownZone.value = name;
}

/** @returns {string[]} */
export function zones() {
  const known = /** @type {any} */ (Intl).supportedValuesOf?.("timeZone") ?? [];
  return [...new Set(["UTC", own, projectZone.value, ...known])];
}

/**
 * A number in the reader's locale; one that came as text keeps every digit.
 * @param {number | string | Exact | null | undefined} value
 * @param {Intl.NumberFormatOptions} [options]
 */
export function number(value, options) {
  if (value === null || value === undefined) return "–";
  if (value instanceof Exact) return digits(value.text);
  if (typeof value === "string") return digits(value);
  return new Intl.NumberFormat(undefined, { maximumFractionDigits: 2, ...options }).format(value);
}

/**
 * A decimal that came as text, grouped as the locale does, its digits as they are: it never becomes a float.
 * @param {string} text
 */
export function digits(text) {
  const found = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text);
  if (!found) return text;
  const [, sign = "", whole = "0", fraction] = found;
  const locale = new Intl.NumberFormat(undefined);
  const point = locale.formatToParts(1.5).find((part) => part.type === "decimal")?.value ?? ".";
  const digit = (/** @type {string} */ one) => locale.format(Number(one));
  return sign + locale.format(BigInt(whole)) + (fraction ? point + Array.from(fraction, digit).join("") : "");
}

/** @param {number} value */
export function short(value) {
  return new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

/** @param {number} ratio */
export function percent(ratio) {
  return new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 }).format(ratio);
}

/** @param {number} value */
export function bytes(value) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const power = Math.min(units.length - 1, value > 0 ? Math.floor(Math.log(value) / Math.log(1000)) : 0);
  const options = { style: "unit", unit: units[power], unitDisplay: "short", maximumFractionDigits: 1 };
  return new Intl.NumberFormat(undefined, /** @type {any} */ (options)).format(value / 1000 ** power);
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${number(seconds, { maximumFractionDigits: 1 })} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.round((seconds % 86_400) / 3600)} h`;
}

/**
 * A moment in the chosen zone.
 * @param {string | number | Date} at
 * @param {Intl.DateTimeFormatOptions} [options]
 */
export function time(at, options) {
  const given = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" };
  return new Intl.DateTimeFormat(undefined, { ...(options ?? /** @type {any} */ (given)), timeZone: zone.value }).format(new Date(at));
}

/**
 * How long ago, in words.
 * @param {string | number | Date} at
 * @param {number} [now]
 */
export function ago(at, now = Date.now()) {
  const seconds = (new Date(at).getTime() - now) / 1000;
  const words = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
  const steps = /** @type {[Intl.RelativeTimeFormatUnit, number][]} */ ([["day", 86_400], ["hour", 3600], ["minute", 60]]);
  for (const [unit, length] of steps) {
    if (Math.abs(seconds) >= length) return words.format(Math.trunc(seconds / length), unit);
  }
  return words.format(Math.trunc(seconds), "second");
}

/**
 * A moment, with UTC on hover. `relative`: how long ago instead.
 * @param {TimeProps} props
 */
export function Time({ at, relative, millis }) {
  if (!at) return html`<span class="muted">–</span>`;
  const moment = new Date(at);
  if (Number.isNaN(moment.getTime())) return html`<span>${String(at)}</span>`;
  /** @type {any} */
  const options = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" };
  if (moment.getFullYear() !== new Date().getFullYear()) options.year = "numeric";
  if (millis) options.fractionalSecondDigits = 3;
  const utc = moment.toISOString();
  const title = relative ? `${time(moment)} · ${utc}` : utc;
  return html`<time datetime=${utc} title=${title}>${relative ? ago(moment) : time(moment, options)}</time>`;
}
