// How the pipeline does: /pipeline, /pipeline/topics, /pipeline/jobs, /pipeline/checks.
import { Badge, Card, Code, Dialog, Empty, Fault, get, Head, html, Loaded, number, place, post, pretty, request, Select, setQuery, Table, Tabs, Time, toast, useAction, useLoad, useState } from "../lib/page.js";
import { Chart } from "../lib/chart.js";

const TABS = /** @type {[string, string, string][]} */ ([
  ["", "Overview", "/pipeline"], ["topics", "Topics and lag", "/pipeline/topics"], ["jobs", "Jobs", "/pipeline/jobs"], ["checks", "Checks", "/pipeline/checks"],
]);
const KINDS = /** @type {Record<string, string>} */ ({ ready: "good", up: "good", degraded: "warning", starting: "warning", unready: "bad", down: "bad", running: "good", queued: "warning", failed: "bad", succeeded: "good", cancelled: "plain" });

/** @param {{parts: string[]}} props */
export default function Pipeline({ parts }) {
  const tab = parts[0] ?? "";
  const views = /** @type {Record<string, any>} */ ({ topics: Topics, jobs: JobList, checks: Checks });
  return html`<${Head} title="Pipeline" about="From capture through the log to the store: what runs, what waits, and what to do about it." />
    <${Tabs} items=${TABS} current=${tab} label="Pipeline" />
    <${views[tab] ?? Overview} />`;
}

function Overview() {
  const report = useLoad((signal) => get("/api/ops/components", {}, { signal }), [], { every: 5000 });
  return html`<${Loaded} of=${report} what="components">${(found) => html`
      <div class="tiles" data-testid="roles">${Object.entries(found.roles).map(([role, state]) => html`<div class="tile" key=${role}>
        <div class="value small"><${Badge} kind=${KINDS[String(state)] ?? "plain"}>${state}<//></div><div class="what">role ${role}</div></div>`)}</div>
      <${Card} title="Components"><${Table} label="Components" testid="components" rows=${found.components} columns=${[
        { key: "name", title: "Component", as: "code" },
        { key: "state", title: "State", cell: (one) => html`<${Badge} kind=${KINDS[one.state] ?? "plain"}>${one.state}<//>` },
        { key: "reason", title: "Reason and cure", cell: (one) => one.reason ? html`${one.reason}` : html`<span class="muted">–</span>` },
        { key: "since", title: "Since", as: "ago" },
      ]} /><//>
      <${Rates} breakers=${found.breakers} />`}<//>`;
}

const RATES = /** @type {[string, string][]} */ ([
  ["Events accepted", "capture_events_accepted_total"], ["Records stored", "consumer_records_stored_total"], ["Duplicates", "consumer_duplicates_total"],
  ["Dead letters", "consumer_dlq_messages_total"], ["Batches", "consumer_batches_written_total"],
]);

const BREAKERS = /** @type {Record<string, string>} */ ({ closed: "good", half_open: "warning", open: "bad" });

/** What the process that answers counted a minute, and how far each group was behind. @param {{breakers: any[]}} props */
function Rates({ breakers }) {
  const load = useLoad((signal) => get("/api/ops/lag", { history: true }, { signal }), [], { every: 5000 });
  return html`<${Loaded} of=${load} what="counters">${({ history }) => {
    const at = history.map((/** @type {any} */ one) => Date.parse(one.at));
    const last = history.at(-1);
    const grown = (/** @type {string} */ name) => at.slice(1).map((/** @type {number} */ now, /** @type {number} */ index) => ((history[index + 1].counted[name] - history[index].counted[name]) * 60_000) / (now - at[index]));
    const series = RATES.map(([label, name]) => ({ label, values: grown(name) }));
    const groups = [...new Set(history.flatMap((/** @type {any} */ one) => Object.keys(one.groups)))];
    const lags = (groups.length > 0 ? groups : ["Lag"]).map((label) => ({ label, values: history.map((/** @type {any} */ one) => one.groups[label] ?? 0) }));
    return html`<div class="split">
      <${Card} title="A minute">
        ${at.length > 1 ? html`<${Chart} label="Rates a minute" x=${at.slice(1)} series=${series} height=${220} />` : html`<p class="muted">The chart begins with the second look.</p>`}
        <${Table} label="Counters of this process" testid="rates" rows=${RATES.map(([label, name], index) => ({ label, total: last?.counted[name], rate: series[index]?.values.at(-1) }))} columns=${[
          { key: "label", title: "What" }, { key: "rate", title: "A minute now", right: true, cell: (one) => number(one.rate, { maximumFractionDigits: 0 }) },
          { key: "total", title: "Since its start", right: true },
        ]} />
      <//>
      <div>
        <${Card} title="Lag, records"><div data-testid="lag-history" data-looks=${at.length}><${Chart} label="Lag" x=${at} series=${lags} height=${140} /></div>
          <p class="muted small">${number(last?.lag)} records wait for a group that reads them; looked at since <${Time} at=${history[0]?.at} />.</p><//>
        <${Card} title="Circuit breakers"><${Table} label="Circuit breakers" testid="breakers" rows=${breakers} columns=${[
          { key: "dependency", title: "Around", as: "code" },
          { key: "state", title: "State", cell: (one) => html`<${Badge} kind=${BREAKERS[one.state]}>${one.state.replace("_", "-")}<//>` },
        ]} /><//>
        <p class="muted small">Counters are those of the process that serves it, since it began or for two hours; each process has its own <code>/metrics</code>, of which Prometheus keeps what was before.</p>
      </div>
    </div>`;
  }}<//>`;
}

function Topics() {
  const topics = useLoad((signal) => get("/api/ops/topics", {}, { signal }), [], { every: 5000 });
  const lag = useLoad((signal) => get("/api/ops/lag", {}, { signal }), [], { every: 5000 });
  const create = useAction(async () => {
    const { created } = await post("/api/ops/topics/create");
    toast(created.length > 0 ? `Created: ${created.join(", ")}` : "Nothing was missing");
    topics.reload();
  });
  return html`<${Fault} error=${create.error} />
    <${Loaded} of=${topics} what="topics">${(found) => html`
      ${found.missing.length > 0 ? html`<div class="note warning">Missing: ${found.missing.join(", ")} <button class="primary" disabled=${create.busy} onClick=${create.run}>Create them</button></div>` : null}
      ${found.remarks.map((/** @type {string} */ one) => html`<div class="note warning" key=${one}>${one}</div>`)}
      <${Card} title="Topics"><${Table} label="Topics" testid="topics" rows=${found.topics} columns=${[
        { key: "name", title: "Topic", as: "code" },
        { key: "partitions", title: "Partitions", right: true, cell: (one) => number(one.partitions.length) },
        { key: "records", title: "Records kept", right: true, cell: (one) => number(one.partitions.reduce((/** @type {number} */ total, /** @type {any} */ part) => total + part.end - part.log_start, 0)) },
        { key: "end", title: "Records ever", right: true, cell: (one) => number(one.partitions.reduce((/** @type {number} */ total, /** @type {any} */ part) => total + part.end, 0)) },
      ]} /><//>`}<//>
    <${Loaded} of=${lag} what="lag">${(found) => html`
      <${Card} title="Lag: how far each group is behind, by partition"><${Table} label="Lag" testid="lag" rows=${found.groups} columns=${[
        { key: "group", title: "Group", as: "code" },
        { key: "topic", title: "Topic", as: "code" },
        { key: "partition", title: "Partition", right: true },
        { key: "committed", title: "Committed", right: true },
        { key: "end", title: "End", right: true },
        { key: "lag", title: "Lag", right: true, cell: (one) => html`<span data-lag=${one.lag}>${number(one.lag)}</span>` },
      ]} /><//>`}<//>`;
}

const STATES = [["", "any state"], "queued", "running", "succeeded", "failed", "cancelled"];

function JobList() {
  const state = place.value.query.get("state") ?? "";
  const [open, setOpen] = useState(/** @type {any} */ (null));
  const jobs = useLoad((signal) => get("/api/jobs", { state, limit: 100 }, { signal }), [state], { every: 3000 });
  const act = useAction(async (job, what) => {
    await post(`/api/jobs/${encodeURIComponent(job.id)}/${what}`);
    toast(what === "cancel" ? "The job was asked to end" : "The job goes on");
    jobs.reload();
  });
  /** @type {Column[]} */
  const columns = [
    { key: "kind", title: "Job", cell: (one) => html`<button class="quiet small" onClick=${() => setOpen(one)}>${one.kind}</button>` },
    { key: "state", title: "State", cell: (one) => html`<${Badge} kind=${KINDS[one.state] ?? "plain"}>${one.cancel_requested && one.state === "running" ? "ending" : one.state}<//>` },
    { key: "progress", title: "Progress", cell: (one) => html`<span class="small">${progress(one.progress)}</span>` },
    { key: "error", title: "Error", cell: (one) => one.error ?? "" },
    { key: "created_at", title: "Created", as: "ago" },
    { key: "act", title: "", cell: (one) => ["queued", "running"].includes(one.state) && !one.cancel_requested
      ? html`<button class="small" disabled=${act.busy} onClick=${() => act.run(one, "cancel")}>Cancel</button>`
      : ["failed", "cancelled"].includes(one.state) ? html`<button class="small" disabled=${act.busy} onClick=${() => act.run(one, "resume")} data-testid="resume">Resume</button>` : null },
  ];
  return html`<div class="filters"><label class="field inline"><span class="label">State</span><${Select} value=${state} options=${STATES} onChange=${(next) => setQuery({ state: next })} /></label></div>
    <${Fault} error=${act.error} />
    <${Loaded} of=${jobs} what="jobs">${(found) => found.jobs.length === 0
      ? html`<${Empty} title="No jobs">Replays, discards and rebuilds run as jobs and show here.<//>`
      : html`<${Table} label="Jobs" testid="jobs" columns=${columns} rows=${found.jobs} rowKey=${(one) => one.id} />`}<//>
    ${open ? html`<${Dialog} title=${`Job ${open.kind}`} onClose=${() => setOpen(null)} wide><${Code} text=${pretty(open)} label="The job" /><//>` : null}`;
}

/** @param {any} progress */
function progress(progress) {
  if (!progress) return "";
  const words = Object.entries(progress).flatMap(([name, value]) => typeof value === "number" ? [`${name} ${number(value)}`] : name === "outcomes" ? Object.entries(/** @type {any} */ (value)).map(([outcome, count]) => `${outcome} ${number(/** @type {any} */ (count))}`) : []);
  return words.join(" · ");
}

function Checks() {
  const doctor = useLoad((signal) => get("/api/ops/doctor", {}, { signal }), []);
  const [asked, setAsked] = useState(false);
  return html`<${Loaded} of=${doctor} what="checks">${(found) => html`
      <${Card} title="Is everything as it should be?" actions=${html`<button onClick=${doctor.reload}>Check again</button>`}>
        <${Table} label="Checks" testid="checks" rows=${found.findings} columns=${[
          { key: "name", title: "What", as: "code" },
          { key: "ok", title: "", cell: (one) => html`<${Badge} kind=${one.ok ? "good" : "bad"}>${one.ok ? "good" : "wrong"}<//>` },
          { key: "message", title: "Found" },
          { key: "cure", title: "Cure", cell: (one) => one.cure || html`<span class="muted">–</span>` },
        ]} /><//>`}<//>
    <${Card} title="Is every record accounted for?">
      ${asked ? html`<${Audit} />` : html`<p>Reads the whole log and the store, and names what is missing. It takes a while on a long log.</p><button class="primary" onClick=${() => setAsked(true)} data-testid="audit">Audit now</button>`}
    <//>`;
}

function Audit() {
  const audit = useLoad((signal) => request("/api/ops/audit", { signal }), []);
  return html`<${Loaded} of=${audit} what="the log">${(found) => html`<div data-testid="audit-answer">
      <p><${Badge} kind=${found.balanced ? "good" : "bad"}>${found.balanced ? "Balanced" : "Records are missing"}<//> Topic <code>${found.topic}</code>: ${number(found.totals.records)} records committed.</p>
      <${Table} label="Audit" rows=${[["stored", found.totals.stored], ["duplicates", found.totals.duplicate], ...Object.entries(found.totals.dead_lettered).map(([kind, count]) => [`dead letters: ${kind}`, count]), ["missing", found.totals.missing], ["in flight", found.totals.in_flight]]} columns=${[
        { key: "0", title: "Came to be" }, { key: "1", title: "Records", right: true, cell: (one) => number(one[1]) }]} />
      <button onClick=${audit.reload}>Audit again</button></div>`}<//>`;
}
