// Who is told of system events: /webhooks; one of them with its deliveries: /webhooks/{id}.
import { Badge, Card, Code, Confirm, del, Dialog, Empty, Fault, FormDialog, get, go, Head, html, Link, Loaded, patch, path, post, pretty, Secret, Select, session, setQuery, Table, TextField, textOf, Time, toast, useAction, useGet, useLoad, useState } from "../lib/page.js";

/** @param {WebhooksProps} props */
export default function Webhooks({ parts, query }) {
  const [id] = parts;
  return id ? html`<${One} key=${id} id=${id} query=${query} />` : html`<${All} />`;
}

const STATUS = /** @type {Record<string, [string, string]>} */ ({ enabled: ["good", "delivers"], disabled: ["warning", "paused"], gone: ["bad", "receiver is gone"] });

/** @param {{of: any}} props */
function Status({ of }) {
  const [kind, words] = STATUS[of.status] ?? ["plain", of.status];
  return html`<span data-testid="webhook-status" data-status=${of.status}><${Badge} kind=${kind}>${words}<//></span>`;
}

/** @param {any} hook */
const told = (hook) => (hook.events.length === 0 ? "everything" : hook.events.join(", "));
/** @param {any} hook */
const where = (hook) => hook.environment_id === null ? "every environment" : (session.place().project?.environments.find((one) => one.id === hook.environment_id)?.name ?? hook.environment_id);

function All() {
  const hooks = useGet("/api/webhooks");
  const [making, setMaking] = useState(false);
  const [secret, setSecret] = useState("");
  /** @type {Column[]} */
  const columns = [
    { key: "url", title: "Address", cell: (one) => html`<${Link} class="clip" href=${path(["webhooks", one.id])}><bdi>${one.url}</bdi><//>` },
    { key: "description", title: "What it is for" },
    { key: "events", title: "Is told of", cell: told },
    { key: "environment", title: "In", cell: where },
    { key: "status", title: "State", cell: (one) => html`<${Status} of=${one} />` },
  ];
  return html`<${Head} title="Webhooks" about="Addresses that are told when something happens here: a job ends, dead letters pile up, no meter counts an event. Each delivery is signed, and tried again until it is taken.">
      <button class="primary" onClick=${() => setMaking(true)} data-testid="new-webhook">New webhook</button>
    <//>
    ${secret ? html`<${Secret} text=${secret} onClose=${() => setSecret("")}>The secret that signs its deliveries, shown this once. The receiver verifies them with it, by any library of Standard Webhooks.<//>` : null}
    <${Loaded} of=${hooks} what="webhooks">${(found) => found.webhooks.length === 0
      ? html`<${Empty} title="Nobody is told yet">Make a webhook with the address of a program of yours, and send it a test.<//>`
      : html`<${Table} label="Webhooks" testid="webhooks" columns=${columns} rows=${found.webhooks} rowKey=${(one) => one.id} onRow=${(one) => go(path(["webhooks", one.id]))} />`}<//>
    ${making ? html`<${Editing} title="New webhook" onClose=${() => setMaking(false)} onSave=${async (body) => {
      setSecret((await post("/api/webhooks", body)).secret);
      setMaking(false);
      hooks.reload();
    }} />` : null}`;
}

/** @param {{title: string, of?: any, onSave: (body: any) => Promise<void>, onClose: () => void}} props */
function Editing({ title, of, onSave, onClose }) {
  const kinds = useGet("/api/webhooks/events");
  const save = (/** @type {FormData} */ form) => {
    /** @type {any} */
    const body = { url: textOf(form, "url"), description: textOf(form, "description"), events: form.getAll("event"), ordered: form.has("ordered") };
    if (form.has("here")) body.environment_id = session.scope.peek().environment;
    return onSave(body);
  };
  return html`<${FormDialog} title=${title} action=${of ? "Save" : "Make it"} save="save-webhook" onSave=${save} onClose=${onClose} wide>
    <${TextField} name="url" label="Address" hint="An address that takes POST. Private networks are refused unless webhook.allow_private says otherwise." required inputmode="url" spellcheck=${false} maxlength="2000" value=${of?.url} placeholder="your receiver's address" />
    <${TextField} name="description" label="What it is for" maxlength="500" value=${of?.description} />
    <${Loaded} of=${kinds} what="kinds of events">${(found) => html`<fieldset><legend>Told of (nothing chosen: everything)</legend><div class="row">${found.events.map((/** @type {string} */ kind) => html`<label key=${kind} class="field inline"><input type="checkbox" name="event" value=${kind} defaultChecked=${of?.events.includes(kind)} /><code>${kind}</code></label>`)}</div></fieldset>`}<//>
    <label class="field inline"><input type="checkbox" name="ordered" defaultChecked=${of?.ordered} />one after the other, in order: one that is not taken holds up the rest</label>
    ${of ? null : html`<label class="field inline"><input type="checkbox" name="here" />of this environment alone</label>`}
  <//>`;
}

/** @param {{id: string, query: URLSearchParams}} props */
function One({ id, query }) {
  const at = `/api/webhooks/${encodeURIComponent(id)}`;
  const hook = useGet(at);
  const [dialog, setDialog] = useState("");
  const [secret, setSecret] = useState("");
  const [sent, setSent] = useState(0);
  const act = useAction(async (run, said) => {
    const answer = await run();
    toast(said);
    setDialog("");
    if (answer.secret) setSecret(answer.secret);
    hook.reload();
    setSent((now) => now + 1);
  });
  const remove = useAction(async () => {
    await del(at);
    toast("The webhook was deleted");
    go("/webhooks");
  });
  return html`<${Loaded} of=${hook} what="the webhook">${(one) => html`
    <${Head} title=${html`<bdi>${one.url}</bdi>`} about=${html`<bdi>${one.description}</bdi>`}>
      <${Link} href="/webhooks">All webhooks<//>
      <button onClick=${() => act.run(() => post(`${at}/test`), "A test is on its way")} disabled=${act.busy || one.status !== "enabled"} data-testid="test">Send a test</button>
      <button onClick=${() => act.run(() => patch(at, { enabled: one.status !== "enabled" }), one.status === "enabled" ? "Paused: what waits goes on waiting" : "It delivers again")} disabled=${act.busy} data-testid="pause">${one.status === "enabled" ? "Pause" : "Go on"}</button>
      <button onClick=${() => setDialog("edit")} data-testid="edit">Change…</button>
      <button onClick=${() => setDialog("rotate")} data-testid="rotate">New secret…</button>
      <button class="danger" onClick=${() => setDialog("delete")} data-testid="delete">Delete…</button>
    <//>
    <${Fault} error=${act.error} />
    ${secret ? html`<${Secret} text=${secret} onClose=${() => setSecret("")}>The new secret, shown this once. The one so far signs beside it for a while.<//>` : null}
    <${Card}><dl class="facts">
      <dt>State</dt><dd><${Status} of=${one} />${one.status === "gone" ? " The receiver answered 410: nothing more is sent until you let it go on." : ""}</dd>
      <dt>Is told of</dt><dd>${told(one)}, in ${where(one)}${one.ordered ? ", one after the other" : ""}</dd>
      <dt>Made</dt><dd><${Time} at=${one.created_at} /></dd>
    </dl><//>
    <${Deliveries} at=${at} state=${query.get("state") ?? ""} sent=${sent} onReplay=${(which) => act.run(() => post(`${at}/${which}`), "On its way again")} />
    ${dialog === "edit" ? html`<${Editing} title="Change the webhook" of=${one} onClose=${() => setDialog("")} onSave=${async (body) => { await patch(at, body); setDialog(""); toast("Saved"); hook.reload(); }} />` : null}
    ${dialog === "rotate" ? html`<${Confirm} title="Sign with a new secret?" action="Make it" danger=${false} busy=${act.busy} onClose=${() => setDialog("")} onYes=${() => act.run(() => post(`${at}/rotate-secret`, {}), "Signed with a new secret from now on")}><p>Deliveries carry both signatures for a while, so that the receiver can change over.</p><//>` : null}
    ${dialog === "delete" ? html`<${Confirm} title="Delete the webhook?" action="Delete it" busy=${remove.busy} onClose=${() => setDialog("")} onYes=${remove.run}><${Fault} error=${remove.error} /><p>Its deliveries go with it, those that wait too.</p><//>` : null}`}<//>`;
}

const STATES = [["", "any state"], "pending", "delivered", "dead"];
const KINDS = /** @type {Record<string, string>} */ ({ pending: "warning", delivered: "good", dead: "bad" });

/** What came of an attempt, in words. @param {any} attempt */
const outcome = (attempt) => (attempt ? (attempt.status ? `answered ${attempt.status}` : attempt.error || "no answer") : "not tried yet");

/** @param {DeliveriesProps} props */
function Deliveries({ at, state, sent, onReplay }) {
  const all = useLoad((signal) => get(`${at}/deliveries`, { state, limit: 100 }, { signal }), [at, state, sent], { every: 3000 });
  const [open, setOpen] = useState("");
  /** @type {Column[]} */
  const columns = [
    { key: "created_at", title: "When", as: "time" },
    { key: "event_name", title: "Told of", cell: (one) => html`<button class="quiet small" onClick=${() => setOpen(one.id)}>${one.event_name}</button>` },
    { key: "state", title: "State", cell: (one) => html`<${Badge} kind=${KINDS[one.state]}>${one.state}<//>` },
    { key: "attempts", title: "Attempts", right: true },
    { key: "last", title: "The last one", cell: (one) => html`<bdi>${outcome(one.last)}</bdi>` },
    { key: "due_at", title: "Next", cell: (one) => one.due_at ? html`<${Time} at=${one.due_at} relative />` : "" },
    { key: "act", title: "", cell: (one) => one.state === "pending" ? null : html`<button class="small" onClick=${() => onReplay(`deliveries/${encodeURIComponent(one.id)}/replay`)}>Deliver again</button>` },
  ];
  return html`<${Card} title="Deliveries" actions=${html`<${Select} aria-label="State" value=${state} options=${STATES} onChange=${(next) => setQuery({ state: next })} data-testid="delivery-state" />
      <button onClick=${() => onReplay("replay")} data-testid="replay-dead">Deliver the dead ones again</button>`}>
    <${Loaded} of=${all} what="deliveries">${(found) => found.deliveries.length === 0
      ? html`<${Empty} title="Nothing was delivered yet">Send a test to see that the receiver takes it.<//>`
      : html`<${Table} label="Deliveries" testid="deliveries" columns=${columns} rows=${found.deliveries} rowKey=${(one) => one.id} />${found.next_cursor ? html`<p class="muted small">The newest 100 are shown; the API has all.</p>` : null}`}<//>
    ${open ? html`<${Delivery} at=${`${at}/deliveries/${encodeURIComponent(open)}`} onClose=${() => setOpen("")} />` : null}<//>`;
}

/** What was sent, and what came of each attempt. @param {{at: string, onClose: () => void}} props */
function Delivery({ at, onClose }) {
  const load = useGet(at);
  return html`<${Dialog} title="Delivery" onClose=${onClose} wide testid="delivery"><${Loaded} of=${load} what="the delivery">${(one) => html`
    <${Code} text=${pretty(one.body)} label="What is sent" />
    <h3 class="spaced">Attempts</h3>
    <${Table} label="Attempts" testid="attempts" rows=${one.log} columns=${[
      { key: "at", title: "When", as: "millis" },
      { key: "status", title: "What came of it", cell: (try_) => html`<bdi>${outcome(try_)}</bdi>` },
      { key: "took_ms", title: "ms", right: true },
      { key: "response", title: "The answer begins", cell: (try_) => html`<code><bdi>${try_.response ?? ""}</bdi></code>` },
    ]} />`}<//><//>`;
}
