// Meters and features: made, changed, archived.
import { Confirm, del, Fault, Field, FormDialog, get, go, html, Loaded, patch, post, Select, textOf, TextField, toast, useAction, useLoad, useState } from "../lib/page.js";
import { Known, useNames } from "../lib/events.js";

const KINDS = [
  ["COUNT", "How many events"], ["SUM", "The sum of a property"], ["SUM_WITH_MULTIPLIER", "The sum of a property, times a number"], ["AVG", "The mean of a property"],
  ["MAX", "The largest value"], ["MIN", "The smallest value"], ["LATEST", "The newest value"], ["COUNT_UNIQUE", "How many different values"], ["WEIGHTED_SUM", "The sum, weighted by time"],
];
const RESETS = [["BILLING_PERIOD", "anew in every range"], ["NEVER", "on and on"]];

/** Conditions as they are written: one a line. @param {Meter["filters"]} filters */
const written = (filters) => filters.map(({ key, values }) => `${key} = ${values.join(", ")}`).join("\n");

/** @param {string} text */
function conditions(text) {
  return text.split("\n").filter((line) => line.trim()).map((line) => {
    const [, key = "", values = ""] = /^([^=]+)=(.+)$/.exec(line) ?? [];
    if (!values.trim()) throw new Error(`A condition is a property, = and its values: ${line}`);
    return { key: key.trim(), values: values.split(",").map((one) => one.trim()) };
  });
}

/** Makes a meter, or changes one from now on. @param {MeterFormProps} props */
export function MeterForm({ of, onClose, onDone }) {
  const names = useNames();
  const spec = of?.aggregation ?? {};
  const [type, setType] = useState(spec.type ?? "COUNT");
  const [reset, setReset] = useState(of?.reset_usage ?? "BILLING_PERIOD");
  const reads = type !== "COUNT" && !spec.expression;
  const save = async (/** @type {FormData} */ form) => {
    const text = (/** @type {string} */ name) => textOf(form, name);
    const aggregation = { ...spec, type, ...(reads ? { field: text("field") } : {}), ...(type === "SUM_WITH_MULTIPLIER" ? { multiplier: text("multiplier") } : {}) };
    const body = { name: text("name"), event_name: text("event"), aggregation, unit: text("unit"), reset_usage: reset, filters: of?.filters };
    if (!of || text("filters") !== written(of.filters)) body.filters = conditions(text("filters"));
    const meter = await (of ? patch(`/v1/meters/${encodeURIComponent(of.id)}`, body) : post("/v1/meters", body));
    toast(of ? "It counts so from now on" : "It counts what is there already, too");
    onDone(meter);
  };
  return html`<${FormDialog} title=${of ? "Change the meter" : "New meter"} action=${of ? "Save: another version" : "Make it"} save="save-meter" onSave=${save} onClose=${onClose} wide>
    <div class="row"><div class="grow"><${TextField} name="name" label="Name" required value=${of?.name} /></div><${TextField} name="unit" label="Unit" value=${of?.unit} placeholder="tokens" /></div>
    <div class="row"><div class="grow"><${TextField} name="event" label="Of the event" required value=${of?.event_name} list="known-events" /></div>
      <${Field} label="It counts"><${Select} value=${type} options=${KINDS} onChange=${setType} disabled=${!!of} data-testid="kind" /><//></div>
    ${spec.expression ? html`<p class="muted">It counts <code>${spec.expression}</code>; the API changes that.</p>` : null}
    <div class="row">${reads ? html`<div class="grow"><${TextField} name="field" label="Property" required value=${spec.field} list="known-properties" /></div>` : null}
      ${type === "SUM_WITH_MULTIPLIER" ? html`<${TextField} name="multiplier" label="Times" required inputmode="decimal" value=${spec.multiplier} />` : null}
      <${Field} label="Over time"><${Select} value=${reset} options=${RESETS} onChange=${setReset} data-testid="reset" /><//></div>
    <${TextField} name="filters" label="Only events of which (optional)" hint="One condition a line: a property, =, and its values with commas between." rows="2" maxlength="4000" value=${written(of?.filters ?? [])} placeholder="plan = pro, team" />
    <${Known} names=${names.data} />
  <//>`;
}

/** Asks before a meter or a feature goes. @param {RemovingProps} props */
function Removing({ at, title, words, action, onClose, onDone, children }) {
  const remove = useAction(async () => {
    await del(at);
    toast(words);
    onDone();
  });
  return html`<${Confirm} title=${title} action=${action} busy=${remove.busy} onClose=${onClose} onYes=${remove.run}><${Fault} error=${remove.error} /><p>${children}</p><//>`;
}

/** What an owner can do with a meter. @param {{meter: Meter, again: () => void}} props */
export function MeterActions({ meter, again }) {
  const [open, setOpen] = useState("");
  const close = () => setOpen("");
  return html`<button data-testid="change" onClick=${() => setOpen("change")}>Change…</button>
    ${meter.status !== "archived" ? html`<button class="danger" data-testid="archive" onClick=${() => setOpen("archive")}>Archive…</button>` : null}
    ${open === "change" ? html`<${MeterForm} of=${meter} onClose=${close} onDone=${() => { close(); again(); }} />` : null}
    ${open === "archive" ? html`<${Removing} at=${`/v1/meters/${encodeURIComponent(meter.id)}`} title=${`Archive ${meter.name}?`} action="Archive it" words="It counts no more" onClose=${close} onDone=${() => go("/usage")}>
      It is matched with no event any more. What it counted can be asked for as before.<//>` : null}`;
}

/** Makes a feature, or changes one. @param {FeatureFormProps} props */
export function FeatureForm({ id, ...rest }) {
  const load = useLoad(async (signal) => (id ? get(`/v1/features/${encodeURIComponent(id)}`, {}, { signal }) : null), [id]);
  return html`<${Loaded} of=${load}>${(of) => html`<${FeatureFields} of=${of} ...${rest} />`}<//>`;
}

/** @param {FeatureFieldsProps} props */
function FeatureFields({ of, meters, onClose, onDone }) {
  const [meter_id, setMeter] = useState(of?.meter_id || (meters[0]?.id ?? ""));
  const save = async (/** @type {FormData} */ form) => {
    const body = { name: textOf(form, "name"), meter_id, unit_singular: textOf(form, "one"), unit_plural: textOf(form, "many"), description: textOf(form, "description") };
    await (of ? patch(`/v1/features/${encodeURIComponent(of.id)}`, body) : post("/v1/features", body));
    toast(`${body.name} is kept`);
    onDone();
  };
  return html`<${FormDialog} title=${of ? "Change the feature" : "New feature"} action=${of ? "Save" : "Make it"} save="save-feature" onSave=${save} onClose=${onClose}>
    <${TextField} name="name" label="Name" required value=${of?.name} />
    <${Field} label="Counts"><${Select} value=${meter_id} options=${meters.map(({ id, name }) => [id, name])} onChange=${setMeter} data-testid="meter" /><//>
    <div class="row"><${TextField} name="one" label="Unit, one" value=${of?.unit_singular} placeholder="token" /><${TextField} name="many" label="Unit, many" value=${of?.unit_plural} placeholder="tokens" /></div>
    <${TextField} name="description" label="Description" rows="2" maxlength="4000" value=${of?.description} />
  <//>`;
}

/** What an owner can do with a feature. @param {FeatureActionsProps} props */
export function FeatureActions({ id, name, meters, again }) {
  const [open, setOpen] = useState("");
  const close = () => setOpen("");
  const done = () => {
    close();
    again();
  };
  return html`<div class="actions"><button class="small" onClick=${() => setOpen("change")}>Change…</button><button class="small" onClick=${() => setOpen("delete")}>Delete…</button></div>
    ${open === "change" ? html`<${FeatureForm} id=${id} meters=${meters} onClose=${close} onDone=${done} />` : null}
    ${open === "delete" ? html`<${Removing} at=${`/v1/features/${encodeURIComponent(id)}`} title=${`Delete ${name}?`} action="Delete it" words=${`${name} was deleted`} onClose=${close} onDone=${done}>
      The meter behind it counts as before.<//>` : null}`;
}
