// The builder of paths.
import { Field } from "../lib/parts.js";
import { html } from "../lib/ui.js";
import { Chips } from "./combobox.js";
import { Check, Labelled, Part, Remove, Text, Whole, replaced, without } from "./fields.js";
import { Filters } from "./filters.js";
import { list } from "./question.js";
import * as suggestions from "./suggestions.js";
import { INCLUDES } from "./words.js";

/** @typedef {import("./question.js").Question} Question */

/** Pages and names that a path may have. @returns {Promise<import("./suggestions.js").Suggestion[]>} */
async function nodes() {
  const [pages, events] = await Promise.all([suggestions.values({ type: "event", key: "$current_url", event: "$pageview" }), suggestions.events()]);
  return [...pages, ...events.filter(({ value }) => value !== "$pageview" && value !== "$screen")];
}

/** @param {{question: Question, onChange: (changes: Question) => void}} props */
export function PathsForm({ question, onChange }) {
  const include = list(question.include);
  const cleaning = list(question.cleaning);
  const none = async () => [];
  return html`
    <${Part} name="A path is made of">
      <div class="row">${INCLUDES.map(([value, name]) => html`<${Check} key=${value} label=${name} checked=${include.includes(value)} onChange=${(/** @type {boolean} */ on) => onChange({ include: on ? [...include, value] : include.filter((one) => one !== value) })} />`)}
        <span class="muted">${include.length === 0 ? "everything" : ""}</span></div>
      <${Labelled} label="Leave out"><${Chips} label="Left out" placeholder="page or event" values=${list(question.exclude)} source=${nodes} onChange=${(/** @type {string[]} */ exclude) => onChange({ exclude })} /><//>
      <${Labelled} label="Take together"><${Chips} label="Wildcard" placeholder="/product/*" values=${list(question.path_groups)} source=${none} onChange=${(/** @type {string[]} */ path_groups) => onChange({ path_groups })} /><//>
      ${cleaning.map(
        (rule, index) => html`<div class="condition" key=${index}>
          <${Text} label="Regex" value=${rule.regex} placeholder="[0-9]+" onChange=${(/** @type {string} */ regex) => onChange({ cleaning: replaced(cleaning, index, { ...rule, regex }) })} /> <span aria-hidden="true">→</span>
          <${Text} label="What to write in its place" value=${rule.alias} placeholder="ID" onChange=${(/** @type {string} */ alias) => onChange({ cleaning: replaced(cleaning, index, { ...rule, alias }) })} />
          <${Remove} what="rule" onClick=${() => onChange({ cleaning: without(cleaning, index) })} />
        </div>`,
      )}
      <button type="button" class="quiet" onClick=${() => onChange({ cleaning: [...cleaning, { regex: "", alias: "" }] })}>+ Clean names by regex</button>
    <//>
    <${Part} name="Which paths">
      <div class="row">
        <${Labelled} label="From"><${NodeName} label="Start point" testid="start-point" value=${question.start_point} onChange=${(/** @type {string | undefined} */ start_point) => onChange({ start_point })} /><//>
        <${Labelled} label="To"><${NodeName} label="End point" testid="end-point" value=${question.end_point} onChange=${(/** @type {string | undefined} */ end_point) => onChange({ end_point })} /><//>
      </div>
      <div class="row">
        <${Field} label="Steps"><${Whole} label="Steps of a path" testid="step-limit" value=${question.step_limit} max=${20} min=${2} placeholder="5" onChange=${(/** @type {number | undefined} */ step_limit) => onChange({ step_limit })} /><//>
        <${Field} label="Edges"><${Whole} label="Edges that are shown" testid="edge-limit" value=${question.edge_limit} max=${1000} placeholder="50" onChange=${(/** @type {number | undefined} */ edge_limit) => onChange({ edge_limit })} /><//>
        <${Field} label="At least"><${Whole} label="Fewest paths of an edge" value=${question.min_edge_weight} placeholder="1" onChange=${(/** @type {number | undefined} */ min_edge_weight) => onChange({ min_edge_weight })} /><//>
        <${Field} label="At most"><${Whole} label="Most paths of an edge" value=${question.max_edge_weight} placeholder="any" onChange=${(/** @type {number | undefined} */ max_edge_weight) => onChange({ max_edge_weight })} /><//>
      </div>
    <//>
    <${Around} question=${question} onChange=${onChange} />
    <${Part} name="Filters for everything"><${Filters} value=${question.filters} onChange=${(/** @type {any} */ filters) => onChange({ filters })} /><//>`;
}

/** @param {{label: string, value: string | undefined, testid: string, onChange: (node: string | undefined) => void}} props */
function NodeName({ label, value, testid, onChange }) {
  return html`<${Chips} label=${label} testid=${testid} placeholder="any" values=${value ? [value] : []} source=${nodes} onChange=${(/** @type {string[]} */ values) => onChange(values.at(-1))} />`;
}

/** Paths around a funnel come from the funnel's page; here they can be let go. @param {{question: Question, onChange: (changes: Question) => void}} props */
function Around({ question, onChange }) {
  const around = question.funnel;
  if (!around) return null;
  const steps = list(around.funnel?.steps).map((step) => step.name ?? step.event ?? "any event");
  return html`<${Part} name="Around a funnel"><div class="row">
    <span>What people did <strong>${around.part}</strong> step ${Number(around.step) + 1} of <bdi>${steps.join(" → ")}</bdi></span>
    <${Remove} what="funnel" onClick=${() => onChange({ funnel: undefined })} />
  </div><//>`;
}
