// The first page: how to send a first event, and that it arrived; later, how things stand.
import { Badge, Card, Code, Copy, Empty, Fault, get, go, Head, html, Link, Loaded, number, path, post, session, setQuery, Table, Time, toast, useAction, useLoad, useState, zone } from "../lib/page.js";
import { Chart } from "../lib/chart.js";
import { eventKey, useStream } from "../lib/stream.js";
import { useNames } from "../lib/events.js";

/** @param {{query: URLSearchParams}} props */
export default function Start({ query }) {
  const names = useNames();
  const demo = useAction(fillDemo);
  if (session.projects.value.length === 0) return html`<${NoProject} />`;
  return html`<${Fault} error=${demo.error} retry=${demo.run} /><${Loaded} of=${names} what="your project">${(found) =>
    found.events.length === 0 || query.has("connect") ? html`<${Connect} first=${found.events.length === 0} demo=${demo} />` : html`<${Overview} names=${found} />`}<//>`;
}

const DEMO = "Demo";
const DEMO_EVENTS = 5000;
const demoProject = () => session.projects.value.find((one) => one.name === DEMO);

/** Events of a made-up shop, in a project of their own: they never mix with anybody's. */
async function fillDemo() {
  const there = demoProject();
  const made = there ?? (await post("/api/projects", { name: DEMO }, { unscoped: true }));
  if (!there) await session.load();
  session.choose({ project: made.id, environment: made.environments[0].id });
  const { events } = await get("/api/query/names", { limit: 1 });
  if (events.length > 0) return go("/");
  const { accepted } = await post("/api/demo", { events: DEMO_EVENTS });
  toast(`You are in the project ${DEMO} now; ${number(accepted)} events of the last seven days were sent to it`);
}

function NoProject() {
  return html`<${Head} title="Welcome" /><${Empty} title="You belong to no project yet">An owner adds or invites you under Settings, Members. Then log in again.<//>`;
}

/** What is in the lines until a key was made. */
const PLACEHOLDER = "YOUR_API_KEY";

/** @param {string} key @returns {Record<string, string>} */
function lines(key) {
  const url = location.origin;
  return {
    curl: `curl -sS ${url}/capture \\
  -H 'X-API-Key: ${key}' -H 'Content-Type: application/json' \\
  -d '{"event": "signed up", "distinct_id": "ada", "properties": {"plan": "pro"}}'`,
    Python: `import json, urllib.request

event = {"event": "signed up", "distinct_id": "ada", "properties": {"plan": "pro"}}
request = urllib.request.Request(
    "${url}/capture",
    data=json.dumps(event).encode(),
    headers={"X-API-Key": "${key}", "Content-Type": "application/json"},
)
print(urllib.request.urlopen(request).read().decode())`,
    JavaScript: `const answer = await fetch("${url}/capture", {
  method: "POST",
  headers: { "X-API-Key": "${key}", "Content-Type": "application/json" },
  body: JSON.stringify({ event: "signed up", distinct_id: "ada", properties: { plan: "pro" } }),
});
console.log(await answer.json());`,
  };
}

/** @param {ConnectProps} props */
function Connect({ first, demo }) {
  const [key, setKey] = useState("");
  const [language, setLanguage] = useState("curl");
  const { environment } = session.place();
  const { project } = session.scope.value;
  const stream = useStream({});
  const make = useAction(async () => {
    const body = { name: "Made on the start page", environment_id: session.scope.value.environment, scopes: ["ingest"] };
    setKey((await post(`/api/projects/${encodeURIComponent(project)}/api-keys`, body, { unscoped: true })).api_key);
  });
  const shown = lines(key || PLACEHOLDER);
  const owner = session.role() === "owner";
  return html`<${Head} title=${first ? "Send your first event" : "Send events"} about=${html`To the environment <strong>${environment?.name}</strong>. Three steps, about a minute.`}>
      ${first ? null : html`<button onClick=${() => setQuery({ connect: null })}>Back to the overview</button>`}
    <//>
    <${Card} title="1. A key">
      <${Fault} error=${make.error} />
      ${key
        ? html`<p>This key may send events to this environment. <strong>It is shown this once</strong>; keep it where your program reads it.</p><div class="row"><code class="secret" data-testid="new-key">${key}</code><${Copy} text=${key} label="Copy key" what="Key copied" /></div>`
        : owner
          ? html`<p>Programs that send events carry an API key. Make one, and the lines below have it.</p><button class="primary" disabled=${make.busy} onClick=${make.run} data-testid="make-key">Make a key</button>`
          : html`<p>An owner of the project makes one under Settings, API keys. Put it in the place of <code>${PLACEHOLDER}</code>.</p>`}
    <//>
    <${Card} title="2. Send an event" actions=${html`<div class="actions" role="group" aria-label="Language">${Object.keys(shown).map((one) => html`<button key=${one} class="small" aria-pressed=${one === language} onClick=${() => setLanguage(one)}>${one}</button>`)}</div>`}>
      <p>Paste this into a terminal. The answer 202 comes once the event is durable.</p>
      <${Code} text=${shown[language] ?? ""} label=${`Send an event with ${language}`} />
    <//>
    <${Card} title="3. See it arrive" data-testid="first-event">
      <${Fault} error=${stream.error} />
      ${stream.events.length === 0
        ? html`<div class="loading" role="status"><span class="spinner" aria-hidden="true"></span> Waiting for an event…</div>`
        : html`<div class="note good" role="status"><${Badge} kind="good">It works<//> ${number(stream.arrived)} ${stream.arrived === 1 ? "event has" : "events have"} arrived.</div>
            <ul class="plain" data-testid="arrived">${stream.events.slice(0, 5).map((one) => html`<li key=${eventKey(one)}><${Link} href=${path(["events", one.event_id])}><bdi>${one.event}</bdi><//> of <bdi>${one.distinct_id}</bdi>, <${Time} at=${one.received_at} millis /></li>`)}</ul>
            <div class="actions"><button class="primary" onClick=${() => go("/insights")}>Draw a first chart</button><button onClick=${() => go("/live")}>Watch live</button></div>`}
    <//>
    <${Card} title="Or look around in a demo">
      <p>The generator sends what a shop with adverts sees: people sign up, browse, click and buy.</p>
      ${session.user.value?.is_admin
        ? html`<p>It goes to a project of its own, named ${DEMO}, which you can delete under Settings.</p><button disabled=${demo.busy} onClick=${demo.run} data-testid="demo">${demoProject() ? "Open the demo project" : "Make a demo project"}</button>`
        : html`<${Code} label="Fill the environment with a demo" text=${`flexflow generate --url ${location.origin} --api-key ${key || PLACEHOLDER} --events ${DEMO_EVENTS} --days-back 7`} />`}
    <//>`;
}

/** @param {{names: any}} props */
function Overview({ names }) {
  const question = { date_from: "-24h", interval: "hour", timezone: zone.value, series: [{ event: null, math: "total", name: "Events" }, { event: null, math: "dau", name: "People" }] };
  const day = useLoad((signal) => post("/api/query/trends", question, { signal }), [zone.value]);
  return html`<${Head} title="The last 24 hours"><button onClick=${() => setQuery({ connect: "1" })}>Send events from another program</button><//>
    <${Loaded} of=${day} what="the last day">${(answer) => {
      const [events, people] = answer.results;
      const moments = events.days.map((/** @type {string} */ one) => one);
      return html`<div class="tiles">
          <div class="tile"><div class="value" data-testid="events-today">${number(events.count)}</div><div class="what">events</div></div>
          <div class="tile"><div class="value">${number(Math.max(0, ...people.data))}</div><div class="what">people in the busiest hour</div></div>
          <div class="tile"><div class="value">${number(names.events.length)}${names.meta.truncated ? "+" : ""}</div><div class="what">event names in 30 days</div></div>
          <div class="tile"><div class="value small"><${Time} at=${names.events.map((/** @type {any} */ one) => one.last_seen).sort().at(-1)} relative /></div><div class="what">newest event</div></div>
        </div>
        <div class="split">
          <${Card} title="Events an hour"><${Chart} label="Events an hour" kind="area" x=${moments} series=${[{ label: "Events", values: events.data }]} partial=${1} axis=${(one) => one.slice(11, 16)} height=${260} /><//>
          <${Card} title="Most frequent"><${Table} label="Most frequent events" rows=${names.events.slice(0, 8)} onRow=${(one) => go(path(["events"], { event: one.name }))} columns=${[
            { key: "name", title: "Event", cell: (one) => html`<${Link} class="clip" href=${path(["events"], { event: one.name })}><bdi>${one.name}</bdi><//>` },
            { key: "volume", title: "In 30 days", right: true },
            { key: "last_seen", title: "Last", as: "ago" },
          ]} /><//>
        </div>`;
    }}<//>`;
}
