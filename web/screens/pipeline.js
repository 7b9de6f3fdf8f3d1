// How the pipeline does: /pipeline, /pipeline/topics, /pipeline/jobs, /pipeline/checks.
import { get, post, request } from "../lib/api.js";
import { Chart } from "../lib/chart.js";
import { number, Time } from "../lib/format.js";
import { pretty } from "../lib/json.js";
import { Empty, Fault, Loaded, Loading, useAction, useLoad } from "../lib/load.js";
import { perMinute, sum, useMetrics } from "../lib/metrics.js";
import { Badge, Card, Code, Dialog, Head, Select, Tabs } from "../lib/parts.js";
import { place, setQuery } from "../lib/router.js";
import { Table } from "../lib/table.js";
import { toast } from "../lib/toast.js";
import { html, useState } from "../lib/ui.js";

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
  return html`<${Loaded} of=${report} what="components">${(/** @type {any} */ found) => html`
      <div class="tiles" data-testid="roles">${Object.entries(found.roles).map(([role, state]) => html`<div class="tile" key=${role}>
        <div class="value small"><${Badge} kind=${KINDS[String(state)] ?? "plain"}>${state}<//></div><div class="what">role ${role}</div></div>`)}</div>
      <${Card} title="Components"><${Table} label="Components" testid="components" rows=${found.components} columns=${[
        { key: "name", title: "Component", cell: (/** @type {any} */ one) => html`<code>${one.name}</code>` },
        { key: "state", title: "State", cell: (/** @type {any} */ one) => html`<${Badge} kind=${KINDS[one.state] ?? "plain"}>${one.state}<//>` },
        { key: "reason", title: "Reason and cure", cell: (/** @type {any} */ one) => one.reason ? html`${one.reason}` : html`<span class="muted">–</span>` },
        { key: "since", title: "Since", cell: (/** @type {any} */ one) => html`<${Time} at=${one.since} relative />` },
      ]} /><//>`}<//>
    <${Rates} />`;
}

const RATES = /** @type {[string, string][]} */ ([
  ["Events accepted", "capture_events_accepted_total"], ["Records stored", "consumer_records_stored_total"], ["Duplicates", "consumer_duplicates_total"],
  ["Dead letters", "consumer_dlq_messages_total"], ["Batches", "consumer_batches_written_total"],
]);

/** What the process that answers counts, a minute. */
function Rates() {
  const { moments, error, reload } = useMetrics();
  const last = moments[moments.length - 1];
  if (error && !last) return html`<${Fault} error=${error} retry=${reload} />`;
  if (!last) return html`<${Loading} what="counters" />`;
  const x = moments.slice(1).map((one) => one.at);
  const series = RATES.map(([label, name]) => ({ label, values: perMinute(moments, name) }));
  const breakers = last.samples.filter((one) => one.name === "breaker_state");
  const lag = moments.map((one) => sum(one.samples, "consumer_lag_messages"));
  return html`<div class="split">
      <${Card} title="A minute, since this page was opened">
        ${x.length > 1 ? html`<${Chart} label="Rates a minute" x=${x} series=${series} height=${220} />` : html`<p class="muted">The chart begins with the third look, in a few seconds.</p>`}
        <${Table} label="Counters of this process" testid="rates" rows=${RATES.map(([label, name], index) => ({ label, total: sum(last.samples, name), rate: series[index]?.values.at(-1) }))} columns=${[
          { key: "label", title: "What" }, { key: "rate", title: "A minute now", align: "right", cell: (/** @type {any} */ one) => number(one.rate, { maximumFractionDigits: 0 }) },
          { key: "total", title: "Since its start", align: "right", cell: (/** @type {any} */ one) => number(one.total) },
        ]} />
      <//>
      <div>
        <${Card} title="Lag, records"><${Chart} label="Lag" kind="area" x=${moments.map((one) => one.at)} series=${[{ label: "Lag", values: lag }]} height=${140} /><p class="muted small">${number(lag.at(-1))} records are accepted and not stored yet.</p><//>
        <${Card} title="Circuit breakers"><${Table} label="Circuit breakers" rows=${breakers} columns=${[
          { key: "dependency", title: "Around", cell: (/** @type {any} */ one) => html`<code>${one.labels.dependency}</code>` },
          { key: "value", title: "State", cell: (/** @type {any} */ one) => html`<${Badge} kind=${one.value === 0 ? "good" : one.value === 1 ? "warning" : "bad"}>${["closed", "half-open", "open"][one.value] ?? one.value}<//>` },
        ]} /><//>
        <p class="muted small">Counters are those of the process that serves this page; in an installation of several, each has its own <code>/metrics</code>.</p>
      </div>
    </div>`;
}

function Topics() {
  const topics = useLoad((signal) => get("/api/ops/topics", {}, { signal }), [], { every: 5000 });
  const lag = useLoad((signal) => get("/api/ops/lag", {}, { signal }), [], { every: 5000 });
  const create = useAction(async () => {
    const { created } = await post("/api/ops/topics/create");
    toast(created.length > 0 ? `Created: ${created.join(", ")}` : "Nothing was missing");
    topics.reload();
  });
  return html`${create.error ? html`<${Fault} error=${create.error} />` : null}
    <${Loaded} of=${topics} what="topics">${(/** @type {any} */ found) => html`
      ${found.missing.length > 0 ? html`<div class="note warning">Missing: ${found.missing.join(", ")} <button class="primary" disabled=${create.busy} onClick=${create.run}>Create them</button></div>` : null}
      ${found.remarks.map((/** @type {string} */ one) => html`<div class="note warning" key=${one}>${one}</div>`)}
      <${Card} title="Topics"><${Table} label="Topics" testid="topics" rows=${found.topics} columns=${[
        { key: "name", title: "Topic", cell: (/** @type {any} */ one) => html`<code>${one.name}</code>` },
        { key: "partitions", title: "Partitions", align: "right", cell: (/** @type {any} */ one) => number(one.partitions.length) },
        { key: "records", title: "Records kept", align: "right", cell: (/** @type {any} */ one) => number(one.partitions.reduce((/** @type {number} */ total, /** @type {any} */ part) => total + part.end - part.log_start, 0)) },
        { key: "end", title: "Records ever", align: "right", cell: (/** @type {any} */ one) => number(one.partitions.reduce((/** @type {number} */ total, /** @type {any} */ part) => total + part.end, 0)) },
      ]} /><//>`}<//>
    <${Loaded} of=${lag} what="lag">${(/** @type {any} */ found) => html`
      <${Card} title="Lag: how far each group is behind, by partition"><${Table} label="Lag" testid="lag" rows=${found.groups} columns=${[
        { key: "group", title: "Group", cell: (/** @type {any} */ one) => html`<code>${one.group}</code>` },
        { key: "topic", title: "Topic", cell: (/** @type {any} */ one) => html`<code>${one.topic}</code>` },
        { key: "partition", title: "Partition", align: "right" },
        { key: "committed", title: "Committed", align: "right", cell: (/** @type {any} */ one) => number(one.committed) },
        { key: "end", title: "End", align: "right", cell: (/** @type {any} */ one) => number(one.end) },
        { key: "lag", title: "Lag", align: "right", cell: (/** @type {any} */ one) => html`<span data-lag=${one.lag}>${number(one.lag)}</span>` },
      ]} /><//>`}<//>`;
}

const STATES = [["", "any state"], "queued", "running", "succeeded", "failed", "cancelled"];

function JobList() {
  const state = place.value.query.get("state") ?? "";
  const [open, setOpen] = useState(/** @type {any} */ (null));
  const jobs = useLoad((signal) => get("/api/jobs", { state, limit: 100 }, { signal }), [state], { every: 3000 });
  const act = useAction(async (/** @type {any} */ job, /** @type {string} */ what) => {
    await post(`/api/jobs/${encodeURIComponent(job.id)}/${what}`);
    toast(what === "cancel" ? "The job was asked to end" : "The job goes on");
    jobs.reload();
  });
  const columns = [
    { key: "kind", title: "Job", cell: (/** @type {any} */ one) => html`<button class="quiet small" onClick=${() => setOpen(one)}>${one.kind}</button>` },
    { key: "state", title: "State", cell: (/** @type {any} */ one) => html`<${Badge} kind=${KINDS[one.state] ?? "plain"}>${one.cancel_requested && one.state === "running" ? "ending" : one.state}<//>` },
    { key: "progress", title: "Progress", cell: (/** @type {any} */ one) => html`<span class="small">${progress(one.progress)}</span>` },
    { key: "error", title: "Error", cell: (/** @type {any} */ one) => one.error ?? "" },
    { key: "created_at", title: "Created", cell: (/** @type {any} */ one) => html`<${Time} at=${one.created_at} relative />` },
    { key: "act", title: "", cell: (/** @type {any} */ one) => ["queued", "running"].includes(one.state) && !one.cancel_requested
      ? html`<button class="small" disabled=${act.busy} onClick=${() => act.run(one, "cancel")}>Cancel</button>`
      : ["failed", "cancelled"].includes(one.state) ? html`<button class="small" disabled=${act.busy} onClick=${() => act.run(one, "resume")} data-testid="resume">Resume</button>` : null },
  ];
  return html`<div class="filters"><label class="field inline"><span class="label">State</span><${Select} value=${state} options=${STATES} onChange=${(/** @type {string} */ next) => setQuery({ state: next })} /></label></div>
    ${act.error ? html`<${Fault} error=${act.error} />` : null}
    <${Loaded} of=${jobs} what="jobs">${(/** @type {any} */ found) => found.jobs.length === 0
      ? html`<${Empty} title="No jobs">Replays, discards and rebuilds run as jobs and show here.<//>`
      : html`<${Table} label="Jobs" testid="jobs" columns=${columns} rows=${found.jobs} rowKey=${(/** @type {any} */ one) => one.id} />`}<//>
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
  return html`<${Loaded} of=${doctor} what="checks">${(/** @type {any} */ found) => html`
      <${Card} title="Is everything as it should be?" actions=${html`<button onClick=${doctor.reload}>Check again</button>`}>
        <${Table} label="Checks" testid="checks" rows=${found.findings} columns=${[
          { key: "name", title: "What", cell: (/** @type {any} */ one) => html`<code>${one.name}</code>` },
          { key: "ok", title: "", cell: (/** @type {any} */ one) => html`<${Badge} kind=${one.ok ? "good" : "bad"}>${one.ok ? "good" : "wrong"}<//>` },
          { key: "message", title: "Found" },
          { key: "cure", title: "Cure", cell: (/** @type {any} */ one) => one.cure || html`<span class="muted">–</span>` },
        ]} /><//>`}<//>
    <${Card} title="Is every record accounted for?">
      ${asked ? html`<${Audit} />` : html`<p>Reads the whole log and the store, and names what is missing. It takes a while on a long log.</p><button class="primary" onClick=${() => setAsked(true)} data-testid="audit">Audit now</button>`}
    <//>`;
}

function Audit() {
  const audit = useLoad((signal) => request("/api/ops/audit", { signal }), []);
  return html`<${Loaded} of=${audit} what="the log">${(/** @type {any} */ found) => html`<div data-testid="audit-answer">
      <p><${Badge} kind=${found.balanced ? "good" : "bad"}>${found.balanced ? "Balanced" : "Records are missing"}<//> Topic <code>${found.topic}</code>: ${number(found.totals.records)} records committed.</p>
      <${Table} label="Audit" rows=${[["stored", found.totals.stored], ["duplicates", found.totals.duplicate], ...Object.entries(found.totals.dead_lettered).map(([kind, count]) => [`dead letters: ${kind}`, count]), ["missing", found.totals.missing], ["in flight", found.totals.in_flight]]} columns=${[
        { key: "0", title: "Came to be" }, { key: "1", title: "Records", align: "right", cell: (/** @type {any} */ one) => number(one[1]) }]} />
      <button onClick=${audit.reload}>Audit again</button></div>`}<//>`;
}
