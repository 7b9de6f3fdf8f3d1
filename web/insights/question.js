// Questions as they are sent: what a new one is, what may be left out, and how the URL holds one.
import { path, zone } from "../lib/page.js";
import { KINDS } from "./words.js";

/** @param {string} text @returns {text is Kind} */
export const isKind = (text) => KINDS.some(({ kind }) => kind === text);

/** A question of this kind to begin with. @param {Kind} kind @returns {Question} */
export function fresh(kind) {
  const range = { date_from: "-7d", timezone: zone.peek() };
  switch (kind) {
    case "trends":
      return { ...range, interval: "day", series: [{ event: null, math: "total" }] };
    case "funnel":
      return { ...range, date_from: "-30d", steps: [{ event: null }, { event: null }], window: "14 day" };
    case "retention":
      return { period: "day", total_intervals: 8, timezone: zone.peek(), target_event: null, returning_event: null };
    case "lifecycle":
    case "stickiness":
      return { ...range, date_from: "-14d", interval: "day", series: [{ event: null }] };
    case "paths":
      return { ...range, include: [], step_limit: 5, edge_limit: 50 };
  }
}

/** @param {any} value @returns {any[]} */
export const list = (value) => (Array.isArray(value) ? value : value === null || value === undefined ? [] : [value]);

/** A list of filters, or one group, as a list. @param {any} value @returns {any[]} */
export const filterList = (value) => (Array.isArray(value) ? value : value && typeof value === "object" ? [value] : []);

/** A question from somewhere else: whatever it says, its lists are lists. @param {Kind} kind @param {any} given */
export function shaped(kind, given) {
  if (!given || typeof given !== "object" || Array.isArray(given)) return fresh(kind);
  /** @type {Question} */
  const question = { ...given };
  for (const name of ["series", "steps", "exclusions", "formulas", "exclude", "path_groups", "cleaning", "include"]) {
    if (name in question) question[name] = list(question[name]).filter((one) => typeof one !== "object" || one !== null);
  }
  const needs = kind === "funnel" ? "steps" : kind === "trends" || kind === "lifecycle" || kind === "stickiness" ? "series" : "";
  if (needs && list(question[needs]).length === 0) question[needs] = fresh(kind)[needs];
  return question;
}

/** What of one kind of question makes sense in another. @param {Kind} from @param {Question} question @param {Kind} to */
export function carried(from, question, to) {
  const next = fresh(to);
  for (const name of ["date_from", "date_to", "timezone", "week_start", "filters", "filter_test_accounts", "interval"]) {
    if (question[name] === undefined) continue;
    if (to === "retention" && (name === "date_from" || name === "interval")) continue;
    if (to === "paths" && name === "interval") continue;
    if (to === "funnel" && name === "interval") continue;
    next[name] = question[name];
  }
  const about = list(question.steps ?? question.series).map(({ event, filters }) => ({ event: event ?? null, ...(filters ? { filters } : {}) }));
  if (from === "retention") about.push({ event: question.target_event ?? null }, { event: question.returning_event ?? null });
  const [first, second] = about;
  if (!first) return next;
  if (to === "trends") next.series = about.map((one) => ({ ...one, math: "total" }));
  if (to === "stickiness") next.series = about;
  if (to === "lifecycle") next.series = [first];
  if (to === "funnel") next.steps = second ? about : [first, { event: null }];
  if (to === "retention") [next.target_event, next.returning_event] = [first.event, (second ?? first).event];
  return next;
}

/** A filter that says nothing yet is not sent. @param {any[]} filters @returns {any[]} */
export function saidFilters(filters) {
  return filters.flatMap((one) => {
    if (one.type === "AND" || one.type === "OR") {
      const values = saidFilters(filterList(one.values));
      return values.length > 0 ? [{ type: one.type, values }] : [];
    }
    if (one.type === "cohort") return list(one.value).length > 0 ? [one] : [];
    if (!one.key) return [];
    // Half of a pair is none.
    const half = /between$/.test(one.operator ?? "") && list(one.value).some((end) => typeof end !== "number");
    return [half ? { ...one, value: undefined } : one];
  });
}

/** @param {any} value @returns {any} */
function said(value) {
  if (Array.isArray(value)) return value.map(said);
  if (!value || typeof value !== "object" || Object.getPrototypeOf(value) !== Object.prototype) return value;
  /** @type {Question} */
  const kept = {};
  for (const [name, one] of Object.entries(value)) {
    if (one === undefined || one === "" || one === false) continue;
    if (one === null && name !== "event") continue;
    if (name === "filters" || name.endsWith("_filters")) {
      const filters = saidFilters(filterList(one));
      if (filters.length > 0) kept[name] = filters;
      continue;
    }
    if (name === "values" || name === "value") {
      kept[name] = one;
      continue;
    }
    if ((name === "breakdown" || name === "aggregate_by") && list(one.property).filter(Boolean).length === 0) continue;
    if (name === "exclusions") {
      const named = list(one).filter((excluded) => excluded.event).map(said);
      if (named.length > 0) kept[name] = named;
      continue;
    }
    if (name === "cleaning") {
      const named = list(one).filter((rule) => rule.regex).map((rule) => ({ regex: rule.regex, alias: rule.alias ?? "" }));
      if (named.length > 0) kept[name] = named;
      continue;
    }
    if (Array.isArray(one) && one.length === 0) continue;
    kept[name] = said(one);
  }
  return kept;
}

/** The question without what was left open. @param {Question} question @returns {Question} */
export const sendable = (question) => said(question);

/** Where the page shows this question. @param {Kind} kind @param {Question} question */
export const address = (kind, question) => path(["insights", kind], { q: JSON.stringify(question) });

/**
 * The question that the URL holds. What is no question is told as such.
 * @param {Kind} kind
 * @param {URLSearchParams} query
 * @returns {{question: Question, broken: boolean}}
 */
export function fromQuery(kind, query) {
  const text = query.get("q");
  if (!text) return { question: fresh(kind), broken: false };
  try {
    const given = JSON.parse(text);
    if (!given || typeof given !== "object" || Array.isArray(given)) return { question: fresh(kind), broken: true };
    return { question: shaped(kind, given), broken: false };
  } catch {
    return { question: fresh(kind), broken: true };
  }
}

/** Is a question whole enough to be asked? Otherwise: what is missing. @param {Kind} kind @param {Question} question */
export function missing(kind, question) {
  for (const [index, one] of list(question.series).entries()) {
    const needs = /^(sum|avg|min|max|median|p\d\d)$/.test(one.math ?? "");
    if (kind === "trends" && needs && !one.math_property) {
      return `Choose the property that series ${String.fromCharCode(65 + index)} takes its numbers from.`;
    }
  }
  if (kind === "funnel" && list(question.steps).length < 2) return "A funnel needs a second step: add one.";
  return "";
}
