// How the pipeline does: /pipeline, /pipeline/topics, /pipeline/jobs, /pipeline/checks.
import { Badge, Card, Code, Dialog, Empty, Fault, Head, html, Loaded, number, place, post, pretty, request, Select, setQuery, Table, Tabs, toast, useAction, useGet, useLoad, useState } from "../lib/page.js";
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
  const report = useGet("/api/ops/components", {}, { every: 5000 });
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

const COUNTS = /** @type {[string, string][]} */ ([
  ["Events captured", "captured"], ["Records stored", "stored"], ["Batches", "batches"], ["Duplicates", "duplicates"],
  ["Dead letters", "dead_letters"], ["Failed inserts", "insert_errors"],
]);

const BREAKERS = /** @type {Record<string, string>} */ ({ closed: "good", half_open: "warning", open: "bad" });

/** The last minutes, as many as the address says. @param {string} [group] with the lag of its partitions */
function useHistory(group) {
  const minutes = place.value.query.get("minutes");
  return useGet("/api/ops/history", { minutes, group }, { every: 5000 });
}

/** @param {{history: any, height: number}} props */
function LagChart({ history: { at, lags }, height }) {
  const behind = lags.filter((/** @type {any} */ one) => one.lag.some(Boolean));
  const series = (behind.length > 0 ? behind : lags.slice(0, 1)).map((/** @type {any} */ one) => ({
    label: one.partition === undefined ? one.group : `${one.topic} ${one.partition}`, values: one.lag,
  }));
  return html`<${Chart} label="Lag" x=${at.map(Date.parse)} series=${series} height=${height} partial=${1} />`;
}

/** What all processes counted by minute, and how far each group was behind. @param {{breakers: any[]}} props */
function Rates({ breakers }) {
  const load = useHistory();
  return html`<${Loaded} of=${load} what="history">${(found) => {
    const { at, counted, processes, kept_minutes: kept } = found;
    const rows = COUNTS.map(([label, name]) => ({ label, values: /** @type {(number | null)[]} */ (counted[name]) }));
    return html`<div class="split">
      <${Card} title="A minute" actions=${html`<${Select} aria-label="Time" data-testid="span" value=${place.value.query.get("minutes") ?? ""}
          options=${[["", "2 hours"], [`${kept}`, `${number(kept / 60)} hours`]]} onChange=${(minutes) => setQuery({ minutes })} />`}>
        <${Chart} label="By minute" x=${at.map(Date.parse)} series=${rows} height=${220} partial=${1} />
        <${Table} label="By minute" testid="rates" rows=${rows} columns=${[
          { key: "label", title: "What" }, { key: "minute", title: "Last minute", right: true, cell: ({ values }) => number(values.at(-2) ?? values.at(-1)) },
          { key: "all", title: "Together", right: true, cell: ({ values }) => number(values.reduce((/** @type {number} */ all, /** @type {number} */ one) => all + one, 0)) },
        ]} />
        <${Table} label="Processes" testid="processes" rows=${processes} columns=${[
          { key: "roles", title: "Process", cell: (one) => one.roles.join(", ") }, { key: "captured", title: "Captured", right: true },
          { key: "stored", title: "Stored", right: true }, { key: "last", title: "Last told", as: "ago" },
        ]} />
      <//>
      <div>
        <${Card} title="Lag, records"><${LagChart} history=${found} height=${140} /><//>
        <${Card} title="Circuit breakers"><${Table} label="Circuit breakers" testid="breakers" rows=${breakers} columns=${[
          { key: "dependency", title: "Around", as: "code" },
          { key: "state", title: "State", cell: (one) => html`<${Badge} kind=${BREAKERS[one.state]}>${one.state.replace("_", "-")}<//>` },
        ]} /><//>
        <p class="muted small">Minutes are those of all processes together; components and breakers those of the one that serves this page.</p>
      </div>
    </div>`;
  }}<//>`;
}

/** The lag of a group's partitions over time. @param {{groups: string[]}} props */
function Behind({ groups }) {
  const group = place.value.query.get("group") ?? groups[0] ?? "";
  const load = useHistory(group);
  return html`<${Card} title="Lag over time" actions=${html`<${Select} aria-label="Group" data-testid="lag-group" value=${group} options=${groups} onChange=${(next) => setQuery({ group: next })} />`}>
    <${Loaded} of=${load} what="history">${(found) => html`<${LagChart} history=${found} height=${180} />
      <${Table} label="Lag over time" testid="lag-history" rows=${found.lags} columns=${[
        { key: "topic", title: "Topic", as: "code" }, { key: "partition", title: "Partition", right: true, cell: (one) => one.partition ?? "all" },
        { key: "now", title: "Now", right: true, cell: (one) => number(one.lag.at(-1)) },
        { key: "most", title: "Furthest behind", right: true, cell: (one) => number(Math.max(...one.lag)) },
      ]} />`}<//><//>`;
}

function Topics() {
  const topics = useGet("/api/ops/topics", {}, { every: 5000 });
  const lag = useGet("/api/ops/lag", {}, { every: 5000 });
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
      ]} /><//>
      <${Behind} groups=${[...new Set(found.groups.map((/** @type {any} */ one) => one.group))]} />`}<//>`;
}

const STATES = [["", "any state"], "queued", "running", "succeeded", "failed", "cancelled"];

function JobList() {
  const state = place.value.query.get("state") ?? "";
  const [open, setOpen] = useState(/** @type {any} */ (null));
  const jobs = useGet("/api/jobs", { state, limit: 100 }, { every: 3000 });
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
  const doctor = useGet("/api/ops/doctor");
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
