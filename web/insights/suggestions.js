// What the data has: names of events and properties, values, cohorts. Asked once in a scope and kept for a while.
import { get, session, useEffect, useState } from "../lib/page.js";
import { ELEMENT, METADATA, SESSION } from "./words.js";

const KEPT_MILLIS = 60_000;
/** @type {Map<string, {at: number, found: Promise<any>}>} */
const kept = new Map();

/** Asks anew next time: something was made. */
export const forget = () => kept.clear();

/** @template T @param {string} name @param {() => Promise<T>} ask @returns {Promise<T>} */
function once(name, ask) {
  const { project, environment } = session.scope.peek();
  const key = JSON.stringify([project, environment, name]);
  const known = kept.get(key);
  if (known && Date.now() - known.at < KEPT_MILLIS) return known.found;
  const found = ask();
  kept.set(key, { at: Date.now(), found });
  if (kept.size > 500) kept.delete(kept.keys().next().value ?? "");
  found.catch(() => kept.delete(key));
  return found;
}

/** @returns {Promise<Names>} */
const names = () => once("names", () => get("/api/query/names", { limit: 500 }));

/** @param {{name: string, volume: number}[]} seen @returns {Suggestion[]} */
const noted = (seen) => seen.map(({ name, volume }) => ({ value: name, note: volume }));

/** @returns {Promise<Suggestion[]>} */
export const events = async () => noted((await names()).events);

/** @returns {Promise<Suggestion[]>} */
async function personProperties() {
  const { persons } = await once("persons", () => get("/api/persons", { limit: 100 }));
  const keys = new Set(persons.flatMap((/** @type {any} */ person) => Object.keys(person.properties ?? {})));
  return [...keys].sort().map((value) => ({ value: String(value) }));
}

/** @returns {Promise<{id: string, name: string}[]>} */
export const cohorts = async () => (await once("cohorts", () => get("/api/cohorts"))).cohorts;

/** The types of groups. @returns {Promise<Suggestion[]>} */
export const groups = async () => (await names()).groups.map((/** @type {any} */ one) => ({ value: one.name, note: one.groups }));

/** What cohorts are called, by their ids. */
export function useCohortNames() {
  const [names, setNames] = useState(/** @type {Map<string, string>} */ (new Map([["all", "Everybody"]])));
  useEffect(() => {
    cohorts().then((all) => setNames(new Map([["all", "Everybody"], ...all.map(({ id, name }) => /** @type {[string, string]} */ ([id, name]))])), () => {});
  }, []);
  return names;
}

/** What may be named by a filter or a breakdown of this type. @param {string} type @param {string | number} [group] @returns {Promise<Suggestion[]>} */
export async function properties(type, group) {
  if (type === "group") {
    const found = (await names()).groups.find((/** @type {any} */ one) => one.name === group || one.index === group);
    return ["$group_key", ...(found?.properties ?? [])].map((value) => ({ value }));
  }
  if (type === "element") return ELEMENT.map((value) => ({ value }));
  if (type === "event_metadata") return METADATA.map((value) => ({ value }));
  if (type === "session") return SESSION.map((value) => ({ value }));
  if (type === "person") return personProperties();
  if (type === "cohort") return (await cohorts()).map(({ id, name }) => ({ value: id, label: name }));
  const all = noted((await names()).properties);
  if (type !== "feature") return all;
  const flags = all.filter(({ value }) => value.startsWith("$feature/"));
  return flags.map(({ value, note }) => ({ value: value.slice("$feature/".length), ...(note === undefined ? {} : { note }) }));
}

/**
 * Values that a property has, most frequent first.
 * @param {{type: string, key: string, event?: string | null, search?: string, group_type?: string | undefined, group_type_index?: number | undefined}} of
 * @returns {Promise<Suggestion[]>}
 */
export async function values({ type, key, event, search, group_type, group_type_index }) {
  if (!key || ["session", "cohort", "element"].includes(type)) return [];
  const asked = { property: key, type, event, search, group_type, group_type_index, limit: 50 };
  const { values: seen } = await once(JSON.stringify(asked), () => get("/api/query/values", asked));
  return noted(seen);
}
