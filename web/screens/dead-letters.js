// What was refused, why, and what to do with it: /dead-letters, /dead-letters/{id}.
import { Badge, Card, Code, Dialog, Empty, Fault, Field, go, Head, html, jsonOf, Link, Loaded, number, path, post, pretty, Select, setQuery, Table, Time, useAction, useEffect, useGet, useState } from "../lib/page.js";

/** What each reason means, and what mends it. */
const REASONS = /** @type {Record<string, string>} */ ({
  empty_record: "The record has no value. Nothing can be mended in it: find the producer, then discard.",
  invalid_json: "The value is not a JSON object. Mend the producer; a fix cannot patch what is no object.",
  missing_field: "A field that every event needs is absent or empty. Give it in a fix, then replay.",
  invalid_field: "A field has a type or a length that it cannot have. Replace it in a fix, then replay.",
  out_of_range: "A time or a number is beyond what can be stored. Replace it in a fix, then replay.",
  unknown_schema_version: "A newer FlexFlow wrote it. Update this one, then replay as it is.",
  transform_error: "The transform could not read the raw event. Correct the transform, then reprocess raw events (Transforms), or replay.",
  schema_violation: "The properties do not fit the schema of the event. Mend them in a fix, or make a version of the schema that takes them, then replay.",
  store_rejected: "The store refused this row alone. Look at the message, mend it in a fix, then replay.",
});
const STATES = /** @type {[string, string][]} */ ([["open", "Open"], ["replayed", "Replayed"], ["discarded", "Discarded"], ["", "All"]]);

/** @param {DeadLettersProps} props */
export default function DeadLetters({ parts, query }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${List} query=${query} />`;
}

/** @param {{query: URLSearchParams}} props */
function List({ query }) {
  const status = query.get("status") ?? "open";
  const kind = query.get("kind") ?? "";
  const [chosen, setChosen] = useState(/** @type {string[]} */ ([]));
  const [act, setAct] = useState(/** @type {null | "replay" | "discard"} */ (null));
  const stats = useGet("/api/dlq/stats");
  const letters = useGet("/api/dlq", { status: status === "all" ? "" : status, error_kind: kind, limit: 200 });
  useEffect(() => setChosen([]), [status, kind, letters.at]);
  const again = () => {
    letters.reload();
    stats.reload();
  };
  const pick = (/** @type {string} */ id) => setChosen(chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id]);
  const selection = chosen.length > 0 ? { ids: chosen } : kind ? { error_kind: kind } : { all: true };
  /** @type {Column[]} */
  const columns = [
    { key: "pick", title: html`<span class="visually-hidden">Choose</span>`, width: "34px", cell: (one) => html`<input type="checkbox" aria-label=${`Choose ${one.id}`} checked=${chosen.includes(one.id)} onChange=${() => pick(one.id)} />` },
    { key: "dlq_ts", title: "Refused", cell: (one) => html`<span class="nowrap"><${Time} at=${one.dlq_ts} /></span>` },
    { key: "error_kind", title: "Reason", cell: (one) => html`<code class="nowrap">${one.error_kind}</code>` },
    { key: "error_message", title: "Message", cell: (one) => html`<${Link} class="clip" href=${path(["dead-letters", one.id])}><bdi>${one.error_message}</bdi><//>` },
    { key: "raw_head", title: "Begins", cell: (one) => html`<code class="clip"><bdi>${one.raw_head.slice(0, 200)}</bdi></code>` },
    { key: "status", title: "State", cell: (one) => html`<${Status} of=${one.status} />` },
  ];
  return html`<${Head} title="Dead letters" about="Records that could not be stored, each with its reason. Nothing is lost: mend the cause, then replay.">
      <button onClick=${again}>Refresh</button>
      <button disabled=${!letters.data?.dead_letters.length} onClick=${() => setAct("discard")} data-testid="discard">Discard…</button>
      <button class="primary" disabled=${!letters.data?.dead_letters.length} onClick=${() => setAct("replay")} data-testid="replay">Replay…</button>
    <//>
    <${Loaded} of=${stats} what="counts">${(found) => html`<div class="filters" role="group" aria-label="State">
        ${STATES.map(([key, words]) => html`<button key=${key} aria-pressed=${status === (key || "all")} onClick=${() => setQuery({ status: key || "all" })} data-testid=${`status-${key || "all"}`}>${words} ${number(key ? found.totals[key] : Object.values(found.totals).reduce((sum, one) => sum + Number(one), 0))}</button>`)}
        <${Field} label="Reason" inline><${Select} value=${kind} options=${[["", "any"], ...Object.keys(REASONS)]} onChange=${(next) => setQuery({ kind: next })} data-testid="filter-kind" /><//>
      </div>`}<//>
    ${kind ? html`<div class="note">${REASONS[kind]}</div>` : null}
    <${Loaded} of=${letters} what="dead letters">${(found) => found.dead_letters.length === 0
      ? html`<${Empty} title=${status === "open" ? "Nothing is stuck" : "None"}>${status === "open" ? "Every record that was accepted could be stored." : "No dead letter is in this state."}<//>`
      : html`<${Table} label="Dead letters" testid="letters" columns=${columns} rows=${found.dead_letters} rowKey=${(one) => one.id} onRow=${(one) => go(path(["dead-letters", one.id]))} />
        ${found.next_cursor ? html`<p class="muted">The newest 200 are shown; replay and discard reach all of them.</p>` : null}`}<//>
    ${act ? html`<${Act} action=${act} selection=${selection} onClose=${() => { setAct(null); again(); }} />` : null}`;
}

/** @param {{of: string}} props */
function Status({ of }) {
  return html`<${Badge} kind=${of === "open" ? "warning" : of === "replayed" ? "good" : "plain"}>${of}<//>`;
}

/** @param {{selection: any}} props */
function Chosen({ selection }) {
  const words = selection.ids ? `${number(selection.ids.length)} chosen` : selection.error_kind ? `all open ones with the reason ${selection.error_kind}` : "all open ones of this environment";
  return html`<p><strong>About:</strong> ${words}.</p>`;
}

/**
 * A replay or a discard: a look at what it would do, then the thing itself.
 * @param {ActProps} props
 */
function Act({ action, selection, onClose, start = "" }) {
  const [fix, setFix] = useState(start);
  const [reason, setReason] = useState("");
  const [job, setJob] = useState(/** @type {{id: string, dry: boolean} | null} */ (null));
  const run = useAction(async (dry) => {
    const body = /** @type {any} */ ({ selection, dry_run: dry });
    if (action === "discard") body.reason = reason;
    else if (fix.trim()) body.fix = patch(fix);
    setJob({ id: (await post(`/api/dlq/${action}`, body)).job_id, dry });
  });
  const ready = action === "replay" || reason.trim() !== "";
  return html`<${Dialog} title=${action === "replay" ? "Replay dead letters" : "Discard dead letters"} onClose=${onClose} wide>
    <${Chosen} selection=${selection} />
    ${action === "replay"
      ? html`<${Field} label="Fix (optional)" hint="A JSON merge patch of each event: a field replaces, null removes. Without one they are written again as they are."><textarea rows="5" value=${fix} placeholder=${'{"distinct_id": "unknown"}'} data-testid="fix" onInput=${(event) => setFix(event.currentTarget.value)}></textarea><//>`
      : html`<${Field} label="Why" hint="Kept beside each of them, and in the log."><input type="text" value=${reason} data-testid="reason" onInput=${(event) => setReason(event.currentTarget.value)} /><//>`}
    <${Fault} error=${run.error} />
    ${job ? html`<${Progress} key=${job.id} id=${job.id} dry=${job.dry} />` : null}
    <div class="buttons">
      <button onClick=${onClose}>Close</button>
      <button disabled=${run.busy || !ready} onClick=${() => run.run(true)} data-testid="dry-run">Dry run</button>
      <button class=${action === "replay" ? "primary" : "danger"} disabled=${run.busy || !ready || (job !== null && !job.dry)} onClick=${() => run.run(false)} data-testid="act">${action === "replay" ? "Replay" : "Discard"}</button>
    </div>
  <//>`;
}

/** @param {string} text */
function patch(text) {
  const found = jsonOf(text, "The fix");
  if (found === null || typeof found !== "object" || Array.isArray(found)) throw new Error('The fix is a JSON object, such as {"distinct_id": "unknown"}.');
  return found;
}

/** A job until its end. @param {{id: string, dry: boolean}} props */
function Progress({ id, dry }) {
  const [done, setDone] = useState(false);
  const job = useGet(`/api/jobs/${encodeURIComponent(id)}`, {}, { every: done ? 0 : 700 });
  const state = job.data?.state;
  useEffect(() => setDone(["succeeded", "failed", "cancelled"].includes(state)), [state]);
  return html`<${Loaded} of=${job} what="the job">${(found) => html`<div class="note" data-testid="job" data-state=${found.state} data-dry=${dry}>
      <p><strong>${dry ? "Dry run" : "Job"}</strong> <${Badge} kind=${found.state === "failed" ? "bad" : found.state === "succeeded" ? "good" : "warning"}>${found.state}<//>
        ${Object.entries(found.progress?.outcomes ?? {}).map(([outcome, count]) => html`<span key=${outcome}> · ${outcome.replaceAll("_", " ")} <strong>${number(/** @type {any} */ (count))}</strong></span>`)}
        ${found.state === "succeeded" && Object.keys(found.progress?.outcomes ?? {}).length === 0 ? " · nothing fits any more" : ""}</p>
      ${found.error ? html`<p>${found.error}</p>` : null}
      ${(found.progress?.samples ?? []).slice(0, 5).map((/** @type {any} */ one) => html`<div key=${one.id} class="sample"><div class="small"><code>${one.id}</code> ${one.error_kind} → <strong>${one.outcome.replaceAll("_", " ")}</strong></div>
        <pre class="before"><bdi>${one.before}</bdi></pre>${one.after ? html`<pre class="after"><bdi>${one.after}</bdi></pre>` : null}</div>`)}
      ${dry ? html`<p class="muted small">Nothing was changed: this is what would happen.</p>` : html`<p class="muted small"><${Link} href="/pipeline/jobs">All jobs<//></p>`}
    </div>`}<//>`;
}

/** @param {{id: string}} props */
function One({ id }) {
  const letter = useGet(`/api/dlq/${encodeURIComponent(id)}`);
  const [act, setAct] = useState(/** @type {null | "replay" | "discard"} */ (null));
  return html`<${Head} title=${html`Dead letter <code><bdi>${id}</bdi></code>`}>
      <button onClick=${() => go("/dead-letters")}>All dead letters</button>
      <button onClick=${() => setAct("discard")} data-testid="discard">Discard…</button>
      <button class="primary" onClick=${() => setAct("replay")} data-testid="replay">Fix and replay…</button>
    <//>
    <${Loaded} of=${letter} what="the dead letter">${(one) => html`
      <div class="note warning"><strong><code>${one.error_kind}</code></strong> <bdi>${one.error_message}</bdi><br />${REASONS[one.error_kind] ?? ""}</div>
      <div class="split">
        <${Card} title="As it was received"><${Raw} letter=${one} /><//>
        <${Card} title="Where it stands">
          <dl class="facts">
            <dt>State</dt><dd><${Status} of=${one.status} />${one.reason ? html` <bdi>${one.reason}</bdi>` : null}</dd>
            <dt>Since</dt><dd><${Time} at=${one.status_at} /></dd>
            <dt>Refused</dt><dd><${Time} at=${one.dlq_ts} /> by <code>${one.stage}</code></dd>
            <dt>Record</dt><dd><code>${one.source_topic}</code>, partition ${one.source_partition}, offset ${String(one.source_offset)}</dd>
            <dt>Event</dt><dd>${one.event_id ? html`<${Link} href=${path(["events", one.event_id])}><bdi>${one.event_id}</bdi><//>` : html`<span class="muted">it does not tell its id</span>`}</dd>
            <dt>Attempts</dt><dd>${number(one.attempts)}, replayed ${number(one.recoveries)} times before</dd>
          </dl>
        <//>
      </div>`}<//>
    ${act ? html`<${Act} action=${act} selection=${{ ids: [id] }} onClose=${() => { setAct(null); letter.reload(); }} />` : null}`;
}

/** @param {{letter: any}} props */
function Raw({ letter }) {
  const envelope = letter.dead_letter;
  if (!envelope) return html`<p class="muted">The log has deleted it by its age; its beginning is kept:</p><${Code} text=${letter.raw_head} label="The beginning" />`;
  if (envelope.raw !== undefined && envelope.raw !== null) return html`<${Code} text=${pretty(envelope.raw)} label="The record" />`;
  if (envelope.raw_base64) return html`<p class="muted">It is not JSON; as text:</p><${Code} text=${decoded(envelope.raw_base64)} label="The record as text" /><p class="muted">As base64:</p><${Code} text=${envelope.raw_base64} label="The record in base64" />`;
  if (envelope.raw_truncated) return html`<p class="muted">It was too large to keep whole (${number(envelope.raw_truncated.bytes)} bytes); its beginning:</p><${Code} text=${envelope.raw_truncated.head} label="The beginning" />`;
  return html`<p class="muted">The record had no value.</p>`;
}

/** @param {string} base64 */
function decoded(base64) {
  return new TextDecoder().decode(Uint8Array.from(atob(base64), (one) => one.charCodeAt(0)));
}
