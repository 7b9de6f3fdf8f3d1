// The people behind a number, in pages; each with properties and newest events.
import { copy, Empty, Fault, FormDialog, html, Link, Loading, number, path, post, pretty, save, TextField, textOf, Time, toast, useAction, useLayoutEffect, useGet, useLoad, useRef, useState } from "../lib/page.js";
import { curl } from "./share.js";
import { forget } from "./suggestions.js";

/** What the list says of a person besides who it is. @param {any} person */
function said(person) {
  if (person.events !== undefined) return html`${number(person.events)} events`;
  if (person.count !== undefined) return html`${number(person.count)} paths`;
  if (person.intervals !== undefined) return html`came in intervals ${person.intervals.join(", ")}`;
  if (person.steps !== undefined) return person.steps.map((/** @type {string} */ at, /** @type {number} */ index) => html`<span class="nowrap">${index + 1}: <${Time} at=${at} /></span> `);
  return "";
}

/** @param {{id: string}} props */
function PersonFacts({ id }) {
  const found = useGet(`/api/persons/${encodeURIComponent(id)}`);
  if (found.error) return html`<${Fault} error=${found.error} retry=${found.reload} />`;
  if (!found.data) return html`<${Loading} what="the person" />`;
  const { properties, first_seen, last_seen, events_total, events } = found.data;
  return html`<div class="person-facts">
    <p class="muted">${number(events_total)} events, from <${Time} at=${first_seen} /> to <${Time} at=${last_seen} /></p>
    ${Object.keys(properties).length > 0 && html`<dl class="facts">${Object.entries(properties).map(([key, value]) => html`<dt><bdi>${key}</bdi></dt><dd><bdi>${typeof value === "string" ? value : pretty(value)}</bdi></dd>`)}</dl>`}
    <ul class="events">${events.slice(0, 10).map((/** @type {any} */ event) => html`<li key=${event.event_id}><${Link} href=${path(["events", event.event_id])}><bdi>${event.event}</bdi><//> <${Time} at=${event.timestamp} /></li>`)}</ul>
  </div>`;
}

/** @param {{asked: People, onClose: () => void}} props */
export function PeoplePanel({ asked, onClose }) {
  const key = JSON.stringify([asked.path, asked.body]);
  /** The pages before the one that is asked for, of this list. */
  const [before, setBefore] = useState(/** @type {{key: string, people: any[], cursor: string | null}} */ ({ key, people: [], cursor: null }));
  const [open, setOpen] = useState("");
  const [keeping, setKeeping] = useState(false);
  const panel = useRef(/** @type {HTMLElement | null} */ (null));
  const { people: earlier, cursor } = before.key === key ? before : { people: [], cursor: null };
  const load = useLoad(async (signal) => {
    const page = await post(asked.path, { ...asked.body, limit: 100, ...(cursor ? { cursor } : {}) }, { signal });
    return { key, cursor, page };
  }, [key, cursor]);
  useLayoutEffect(() => panel.current?.focus(), [key]);
  const page = load.data?.key === key && load.data.cursor === cursor ? load.data.page : undefined;
  const people = [...earlier, ...(page?.people ?? [])];
  const more = () => setBefore({ key, people, cursor: page?.next_cursor ?? null });
  const csv = useAction(async () => save("people.csv", await post(asked.path, { ...asked.body, limit: 500 }, { query: { format: "csv" }, as: "text" })));
  return html`<aside class="people" aria-label=${`People: ${asked.title}`} tabindex="-1" ref=${panel} data-testid="people" onKeyDown=${(event) => event.key === "Escape" && !event.target.closest("dialog") && onClose()}>
    <header><div><h2>People</h2><bdi class="muted">${asked.title}</bdi></div><button class="quiet icon" aria-label="Close the people" onClick=${onClose}>×</button></header>
    <div class="row"><button class="small" onClick=${() => copy(curl(asked.path, asked.body))}>Copy as request</button><button class="small" data-testid="people-csv" disabled=${csv.busy} onClick=${csv.run}>CSV</button><button class="small" data-testid="keep-people" onClick=${() => setKeeping(true)}>Keep as cohort</button></div>
    <${Fault} error=${csv.error} /><${Fault} error=${load.error} retry=${load.reload} />
    ${people.length === 0 && load.loading && html`<${Loading} what="the people" />`}
    ${people.length === 0 && !load.loading && !load.error && html`<${Empty} title="Nobody">The number is of events that no person of this list has, or the events changed meanwhile.<//>`}
    <ul class="list">${people.map(
      (person) => html`<li key=${person.id} data-testid="person-of">
        <button class="quiet person-name" aria-expanded=${open === person.id} data-testid="person-name" onClick=${() => setOpen(open === person.id ? "" : person.id)}><bdi class="ellipsis">${person.distinct_ids[0] ?? person.id}</bdi></button>
        ${person.distinct_ids.length > 1 && html`<span class="muted small" title=${person.distinct_ids.join("\n")}>+${person.distinct_ids.length - 1} ids</span>`}
        <span class="muted small">${said(person)}</span>
        ${open === person.id && html`<${PersonFacts} id=${person.id} />`}
      </li>`,
    )}</ul>
    ${page?.next_cursor && html`<button data-testid="more-people" disabled=${load.loading} onClick=${more}>More</button>`}
    ${keeping && html`<${Keeping} asked=${asked} onClose=${() => setKeeping(false)} />`}
  </aside>`;
}

/** A cohort takes so many people at once. */
const COHORT_MAX = 10_000;

/** Everybody in a list, by one of their distinct ids. @param {People} asked */
async function everybody(asked) {
  /** @type {string[]} */
  const ids = [];
  let cursor = null;
  do {
    /** @type {any} */
    const page = await post(asked.path, { ...asked.body, limit: 500, ...(cursor ? { cursor } : {}) });
    ids.push(...page.people.flatMap((/** @type {any} */ person) => person.distinct_ids.slice(0, 1)));
    cursor = page.next_cursor;
  } while (cursor && ids.length < COHORT_MAX);
  return ids.slice(0, COHORT_MAX);
}

/** These people as a cohort, to filter and to break down by. @param {{asked: People, onClose: () => void}} props */
function Keeping({ asked, onClose }) {
  const keep = async (/** @type {FormData} */ form) => {
    const distinct_ids = await everybody(asked);
    const made = await post("/api/cohorts", { name: textOf(form, "name"), distinct_ids });
    forget();
    toast(`${made.name} is a cohort of ${number(distinct_ids.length)} now: filter or break down by it`);
    onClose();
  };
  return html`<${FormDialog} title="Keep these people as a cohort" action="Keep them" save="keep" onSave=${keep} onClose=${onClose} testid="keep-dialog">
    <p class="muted">Everybody in the list now, ${number(COHORT_MAX)} at most. Who comes later is not added.</p>
    <${TextField} name="name" label="Name" required data-testid="cohort-name" />
  <//>`;
}
