// Asking a question, and every state of its answer.
import { Empty, Fault, html, Link, Loading, number, path, post, Time, useLoad } from "../lib/page.js";
import { unfinished } from "./buckets.js";
import { grid, GridTable, isEmpty } from "./grid.js";
import { Picture } from "./pictures.js";
import { missing, sendable } from "./question.js";
import { isWhole } from "./words.js";

/**
 * Asks, and asks anew when the question changes; `anew`: counted up, the answer is not to come from what is remembered.
 * @param {Kind} kind @param {any} question @param {number} [anew]
 */
export function useAnswer(kind, question, anew = 0) {
  const sent = sendable(question);
  const open = missing(kind, question);
  const key = JSON.stringify(sent);
  const load = useLoad(async (signal) => {
    if (open) return { kind, sent, answer: null };
    const answer = await post(`/api/query/${kind}`, anew > 0 ? { ...sent, refresh: true } : sent, { signal });
    return { kind, sent, answer };
  }, [kind, key, anew]);
  // What is shown belongs together: an answer of another kind is none.
  const data = load.data?.kind === kind ? load.data : undefined;
  return { ...load, data, open };
}

/** A moment by the question's clocks, with UTC on hover. @param {{at: string, zone: string}} props */
function Moment({ at, zone }) {
  const moment = new Date(at);
  const text = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short", timeZone: zone }).format(moment);
  return html`<time datetime=${moment.toISOString()} title=${moment.toISOString()}>${text}</time>`;
}

/** Which range was meant, and how whole it is. @param {AboutProps} props */
export function About({ kind, answer, at }) {
  const { meta, results } = answer;
  const days = kind === "trends" ? (results[0]?.days ?? []) : (results.days ?? []);
  const open = kind === "retention" ? 0 : unfinished(days, meta);
  return html`<p class="about muted small" data-testid="about">
    <${Moment} at=${meta.date_from} zone=${meta.timezone} /> to <${Moment} at=${meta.date_to} zone=${meta.timezone} />, ${meta.timezone}
    · ${number(meta.rows_read)} rows read in ${number(meta.elapsed_ms)} ms${meta.cached ? ", remembered" : ""}
    · answered <${Time} at=${at} relative />
    ${meta.complete_to ? html` · everything accepted before <${Time} at=${meta.complete_to} /> is in it` : html` · <strong>the event log could not be asked how much is still to come</strong>`}
    ${open > 0 && html` · <strong data-testid="partial">${open === 1 ? "the last interval is" : `the last ${open} intervals are`} not over yet</strong> (dashed)`}
  </p>`;
}

/** Nothing found: what to look at. @param {{kind: Kind}} props */
function Nothing({ kind }) {
  return html`<${Empty} title="Nothing found">
    No event in this range fits${kind === "paths" ? " a path of two nodes" : ""}. Take a longer range or fewer filters, look at
    <${Link} href=${path(["live"])}>the live events<//> for what arrives, or check project and environment above.
  <//>`;
}

/**
 * @param {object} props
 * @param {Kind} props.kind
 * @param {ReturnType<typeof useAnswer>} props.load
 * @param {OnPeople} [props.onPeople]
 * @param {"both" | "picture" | "table"} [props.parts]
 * @param {number} [props.height]
 */
export function Answer({ kind, load, onPeople, parts = "both", height }) {
  if (load.open) return html`<${Empty} title="One thing is missing">${load.open}<//>`;
  if (load.error && !load.data) return html`<${Fault} error=${load.error} retry=${load.reload} />`;
  if (!load.data?.answer) return html`<${Loading} what="the answer" />`;
  const { sent, answer } = load.data;
  const fault = load.error ? html`<${Fault} error=${load.error} retry=${load.reload} />` : null;
  if (isEmpty(kind, answer)) return html`${fault}<${Nothing} kind=${kind} />`;
  const told = grid(kind, sent, answer);
  const tableOnly = kind === "trends" && sent.display === "table";
  const wide = kind === "paths" || kind === "retention" || (kind === "trends" && isWhole(sent.display)) || told.heads.length > 4;
  return html`<div class=${load.loading ? "stale" : ""} aria-busy=${load.loading} data-testid="answer">
    ${fault}
    <div class=${parts === "both" && !wide ? "split answer" : "answer stacked"}>
      ${parts !== "table" && !(tableOnly && parts === "both") && html`<${Picture} kind=${kind} question=${sent} answer=${answer} onPeople=${onPeople} height=${height} />`}
      ${(parts !== "picture" || tableOnly) && html`<${GridTable} grid=${told} label="The numbers" onPeople=${onPeople} height=${height ?? 420} />`}
    </div>
  </div>`;
}
