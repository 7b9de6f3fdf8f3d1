// The builder of a funnel.
import { Field } from "../lib/parts.js";
import { html } from "../lib/ui.js";
import { Breakdown } from "./breakdown.js";
import { Choice, EventName, Part, Remove, Text, Whole, moved, replaced, without } from "./fields.js";
import { Filters } from "./filters.js";
import { list } from "./question.js";
import { ORDERS, VIZES, WINDOW_UNITS } from "./words.js";

/** @typedef {import("./question.js").Question} Question */

const STEPS_MAX = 16;
const EXCLUSIONS_MAX = 6;

/**
 * @param {{step: any, index: number, count: number, onChange: (step: any) => void, onRemove: () => void, onMove: (by: number) => void}} props
 */
function Step({ step, index, count, onChange, onRemove, onMove }) {
  const name = `step ${index + 1}`;
  return html`<div class="series" role="group" aria-label=${name}>
    <div class="condition">
      <span class="letter" aria-hidden="true">${index + 1}</span>
      <${EventName} label=${`Event of ${name}`} testid="step-event" value=${step.event} onChange=${(/** @type {string | null} */ event) => onChange({ ...step, event })} />
      <${Text} label=${`Name of ${name}`} value=${step.name} placeholder="name" onChange=${(/** @type {string} */ text) => onChange({ ...step, name: text || undefined })} />
      <span class="tools">
        ${index > 0 && html`<button type="button" class="quiet icon" aria-label=${`Move ${name} up`} onClick=${() => onMove(-1)}>↑</button>`}
        ${count > 2 && html`<${Remove} what=${name} onClick=${onRemove} />`}
      </span>
    </div>
    <${Filters} value=${step.filters} event=${step.event} onChange=${(/** @type {any} */ filters) => onChange({ ...step, filters })} />
  </div>`;
}

/** @param {{excluded: any, index: number, steps: [string, string][], onChange: (excluded: any) => void, onRemove: () => void}} props */
function Exclusion({ excluded, index, steps, onChange, onRemove }) {
  const last = steps.length - 1;
  return html`<div class="series" role="group" aria-label=${`exclusion ${index + 1}`}>
    <div class="condition">
      <${EventName} label=${`Event of exclusion ${index + 1}`} only value=${excluded.event} onChange=${(/** @type {string | null} */ event) => onChange({ ...excluded, event })} />
      <span>between</span>
      <${Choice} label="From step" value=${String(excluded.from_step ?? 0)} choices=${steps} onChange=${(/** @type {string} */ step) => onChange({ ...excluded, from_step: Number(step) })} />
      <span>and</span>
      <${Choice} label="To step" value=${String(excluded.to_step ?? last)} choices=${steps} onChange=${(/** @type {string} */ step) => onChange({ ...excluded, to_step: Number(step) })} />
      <${Remove} what="exclusion" onClick=${onRemove} />
    </div>
    <${Filters} value=${excluded.filters} event=${excluded.event} onChange=${(/** @type {any} */ filters) => onChange({ ...excluded, filters })} />
  </div>`;
}

/** @param {{question: Question, onChange: (changes: Question) => void}} props */
export function FunnelForm({ question, onChange }) {
  const steps = list(question.steps);
  const exclusions = list(question.exclusions);
  const names = steps.map((_, index) => /** @type {[string, string]} */ ([String(index), `step ${index + 1}`]));
  const [count = "14", unit = "day"] = String(question.window ?? "14 day").split(" ");
  /** @param {any[]} next */
  const setSteps = (next) => onChange({ steps: next });
  return html`
    <${Part} name="Steps">
      ${steps.map(
        (step, index) => html`<${Step} key=${index} step=${step} index=${index} count=${steps.length} onChange=${(/** @type {any} */ next) => setSteps(replaced(steps, index, next))}
          onRemove=${() => setSteps(without(steps, index))} onMove=${(/** @type {number} */ by) => setSteps(moved(steps, index, by))} />`,
      )}
      ${steps.length < STEPS_MAX && html`<button type="button" data-testid="add-step" onClick=${() => setSteps([...steps, { event: null }])}>+ Step</button>`}
      <div class="row">
        <${Choice} label="Order of the steps" testid="order" value=${question.order ?? "ordered"} choices=${ORDERS} onChange=${(/** @type {string} */ order) => onChange({ order: order === "ordered" ? undefined : order })} />
      </div>
      <div class="row">
        <${Field} label="Within" inline><${Whole} label="Time to convert" testid="window" value=${Number(count)} onChange=${(/** @type {number | undefined} */ next) => onChange({ window: `${next ?? 14} ${unit}` })} /><//>
        <${Choice} label="Unit of the time to convert" value=${unit} choices=${WINDOW_UNITS} onChange=${(/** @type {string} */ next) => onChange({ window: `${count} ${next}` })} />
      </div>
    <//>
    <${Part} name="Must not happen in between">
      ${exclusions.map(
        (excluded, index) => html`<${Exclusion} key=${index} excluded=${excluded} index=${index} steps=${names} onChange=${(/** @type {any} */ next) => onChange({ exclusions: replaced(exclusions, index, next) })} onRemove=${() => onChange({ exclusions: without(exclusions, index) })} />`,
      )}
      ${exclusions.length < EXCLUSIONS_MAX && html`<button type="button" class="quiet" onClick=${() => onChange({ exclusions: [...exclusions, { event: "" }] })}>+ Exclusion</button>`}
    <//>
    <${Part} name="Breakdown"><${Breakdown} kind="funnel" steps=${steps.length} value=${question.breakdown} onChange=${(/** @type {any} */ breakdown) => onChange({ breakdown })} /><//>
    <${Part} name="Filters for everything"><${Filters} value=${question.filters} onChange=${(/** @type {any} */ filters) => onChange({ filters })} /><//>
    <${Part} name="Show"><div class="row">
      <${Choice} label="What is shown" testid="viz" value=${question.viz ?? "steps"} choices=${VIZES} onChange=${(/** @type {string} */ viz) => onChange({ viz: viz === "steps" ? undefined : viz, interval: viz === "trends" ? (question.interval ?? "day") : undefined })} />
      ${question.viz && question.viz !== "steps" && html`<span>from</span>
        <${Choice} label="From step" value=${String(question.from_step ?? 0)} choices=${names} onChange=${(/** @type {string} */ step) => onChange({ from_step: Number(step) })} />
        <span>to</span>
        <${Choice} label="To step" value=${String(question.to_step ?? steps.length - 1)} choices=${names} onChange=${(/** @type {string} */ step) => onChange({ to_step: Number(step) })} />`}
      ${question.viz === "time_to_convert" && html`<${Field} label="Bars" inline><${Whole} label="Bars" value=${question.bin_count} max=${90} placeholder="auto" onChange=${(/** @type {number | undefined} */ bin_count) => onChange({ bin_count })} /><//>`}
    </div><//>`;
}
