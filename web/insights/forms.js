// The builder: a form for each kind of question. A form edits the question's JSON and nothing else.
import { Field } from "../lib/parts.js";
import { html } from "../lib/ui.js";
import { Breakdown } from "./breakdown.js";
import { Check, Choice, EventName, Part, PropertyName, Remove, Text, Whole, moved, replaced, without } from "./fields.js";
import { Filters } from "./filters.js";
import { FunnelForm } from "./funnel_form.js";
import { PathsForm } from "./paths_form.js";
import { list } from "./question.js";
import { Periods, Range } from "./range.js";
import { COMPARISONS, DISPLAYS, MATHS, RETENTION_TYPES, isWhole, ofProperty } from "./words.js";

/** @typedef {import("./question.js").Question} Question */
/** @typedef {{question: Question, onChange: (changes: Question) => void}} FormProps */

export const SERIES_MAX = 26;
/** The letter that a formula calls a series by. @param {number} index */
export const letter = (index) => String.fromCharCode(65 + index);

/** @param {{value: string | undefined, onChange: (math: string) => void, label: string}} props */
function MathChoice({ value, onChange, label }) {
  return html`<select aria-label=${label} data-testid="math" value=${value ?? "total"} onChange=${(/** @type {any} */ event) => onChange(event.currentTarget.value)}>
    ${MATHS.map(({ group, choices }) => html`<optgroup label=${group}>${choices.map(([one, name]) => html`<option value=${one} selected=${one === (value ?? "total")}>${name}</option>`)}</optgroup>`)}
  </select>`;
}

/**
 * One series: an event, what of it is counted, and its own filters.
 * @param {{one: any, index: number, count: number, math: boolean, onChange: (series: any) => void, onRemove: () => void, onMove: (by: number) => void}} props
 */
function SeriesRow({ one, index, count, math, onChange, onRemove, onMove }) {
  const name = `series ${letter(index)}`;
  return html`<div class="series" role="group" aria-label=${name}>
    <div class="condition">
      <span class="letter" aria-hidden="true">${letter(index)}</span>
      <${EventName} label=${`Event of ${name}`} testid="series-event" value=${one.event} onChange=${(/** @type {string | null} */ event) => onChange({ ...one, event })} />
      ${math && html`<${MathChoice} label=${`What is counted of ${name}`} value=${one.math} onChange=${(/** @type {string} */ next) => onChange({ ...one, math: next, ...(ofProperty(next) ? {} : { math_property: undefined, math_property_type: undefined }) })} />`}
      ${math && ofProperty(one.math) && html`<${MathProperty} one=${one} name=${name} onChange=${onChange} />`}
      ${math && one.math === "unique_group" && html`<${Whole} label=${`Type of group of ${name}`} min=${0} max=${9} value=${one.math_group_type_index} placeholder="0" onChange=${(/** @type {number | undefined} */ next) => onChange({ ...one, math_group_type_index: next })} />`}
      <span class="tools">
        ${count > 1 && index > 0 && html`<button type="button" class="quiet icon" aria-label=${`Move ${name} up`} onClick=${() => onMove(-1)}>↑</button>`}
        ${count > 1 && html`<${Remove} what=${name} onClick=${onRemove} />`}
      </span>
    </div>
    <${Filters} value=${one.filters} event=${one.event} onChange=${(/** @type {any} */ filters) => onChange({ ...one, filters })} />
  </div>`;
}

/** @param {{one: any, name: string, onChange: (series: any) => void}} props */
function MathProperty({ one, name, onChange }) {
  const type = one.math_property_type ?? "event";
  return html`<span>of</span>
    <${Choice} label=${`Whose property of ${name}`} value=${type} choices=${[["event", "Event"], ["person", "Person"]]} onChange=${(/** @type {string} */ next) => onChange({ ...one, math_property_type: next === "event" ? undefined : next, math_property: undefined })} />
    <${PropertyName} label=${`Property of ${name}`} testid="math-property" type=${type} value=${one.math_property} onChange=${(/** @type {string} */ math_property) => onChange({ ...one, math_property })} />`;
}

/** @param {FormProps & {max: number, math?: boolean}} props */
function SeriesList({ question, onChange, max, math = false }) {
  const all = list(question.series);
  /** @param {any[]} series */
  const set = (series) => onChange({ series });
  return html`${all.map(
      (one, index) => html`<${SeriesRow} key=${index} one=${one} index=${index} count=${all.length} math=${math}
        onChange=${(/** @type {any} */ next) => set(replaced(all, index, next))} onRemove=${() => set(without(all, index))} onMove=${(/** @type {number} */ by) => set(moved(all, index, by))} />`,
    )}
    ${all.length < max && html`<button type="button" data-testid="add-series" onClick=${() => set([...all, { event: null, ...(math ? { math: "total" } : {}) }])}>+ Series</button>`}`;
}

/** Filters that hold for the whole question. @param {FormProps} props */
export function Shared({ question, onChange }) {
  return html`<${Part} name="Filters for everything"><${Filters} value=${question.filters} onChange=${(/** @type {any} */ filters) => onChange({ filters })} /><//>`;
}

/** @param {FormProps} props */
function TrendsForm({ question, onChange }) {
  const formulas = [question.formula, ...list(question.formulas)].filter((one) => one !== undefined && one !== null);
  /** @param {string[]} next */
  const setFormulas = (next) => onChange({ formula: undefined, formulas: next.filter(Boolean).length > 0 ? next.filter(Boolean) : undefined });
  return html`
    <${Part} name="Series"><${SeriesList} question=${question} onChange=${onChange} max=${SERIES_MAX} math /><//>
    <${Part} name="Formula">
      ${[...formulas, ""].slice(0, SERIES_MAX).map((formula, index) => html`<${Text} key=${index} label=${`Formula ${index + 1}`} testid="formula" value=${formula} placeholder="A / B * 100" onChange=${(/** @type {string} */ text) => setFormulas([...formulas.slice(0, index), text, ...formulas.slice(index + 1)])} />`)}
    <//>
    <${Part} name="Breakdown"><${Breakdown} kind="trends" value=${question.breakdown} onChange=${(/** @type {any} */ breakdown) => onChange({ breakdown })} /><//>
    <${Shared} question=${question} onChange=${onChange} />
    <${Part} name="Show"><div class="row">
      <${Field} label="As" inline><${Choice} label="Display" testid="display" value=${question.display ?? "line"} choices=${DISPLAYS} onChange=${(/** @type {string} */ display) => onChange({ display: display === "line" ? undefined : display })} /><//>
      ${!isWhole(question.display) && html`<${Field} label="Mean of" inline><${Whole} label="Smoothing, in intervals" value=${question.smoothing} placeholder="1" onChange=${(/** @type {number | undefined} */ smoothing) => onChange({ smoothing })} /><//>`}
    </div><//>`;
}

/** @param {FormProps} props */
function RetentionForm({ question, onChange }) {
  return html`
    <${Part} name="Begins with">
      <div class="condition"><${EventName} label="Event that begins" testid="target-event" value=${question.target_event} onChange=${(/** @type {string | null} */ target_event) => onChange({ target_event })} />
        <${Choice} label="Which of these events begin" testid="retention-type" value=${question.retention_type ?? "recurring"} choices=${RETENTION_TYPES} onChange=${(/** @type {string} */ retention_type) => onChange({ retention_type })} /></div>
      <${Filters} value=${question.target_filters} event=${question.target_event} onChange=${(/** @type {any} */ target_filters) => onChange({ target_filters })} />
    <//>
    <${Part} name="Comes back with">
      <${EventName} label="Event that comes back" testid="returning-event" value=${question.returning_event} onChange=${(/** @type {string | null} */ returning_event) => onChange({ returning_event })} />
      <${Filters} value=${question.returning_filters} event=${question.returning_event} onChange=${(/** @type {any} */ returning_filters) => onChange({ returning_filters })} />
      <div class="row">
        <${Field} label="At least" hint="times in an interval" inline><${Whole} label="Events in an interval that make a return" value=${question.min_occurrences} max=${1000} placeholder="1" onChange=${(/** @type {number | undefined} */ min_occurrences) => onChange({ min_occurrences })} /><//>
        <${Check} label="Count up to the last return" testid="cumulative" checked=${question.cumulative === true} onChange=${(/** @type {boolean} */ on) => onChange({ cumulative: on || undefined })} />
      </div>
    <//>
    <${Part} name="Breakdown"><${Breakdown} kind="retention" value=${question.breakdown} onChange=${(/** @type {any} */ breakdown) => onChange({ breakdown })} /><//>
    <${Shared} question=${question} onChange=${onChange} />`;
}

/** @param {FormProps} props */
function LifecycleForm({ question, onChange }) {
  return html`<${Part} name="Active means"><${SeriesList} question=${question} onChange=${onChange} max=${1} /><//>
    <${Shared} question=${question} onChange=${onChange} />`;
}

/** @param {FormProps} props */
function StickinessForm({ question, onChange }) {
  const criteria = question.criteria;
  return html`<${Part} name="Active means">
      <${SeriesList} question=${question} onChange=${onChange} max=${SERIES_MAX} />
      <div class="row">
        <${Choice} label="How often, compared" value=${criteria?.operator ?? "gte"} choices=${COMPARISONS} onChange=${(/** @type {string} */ operator) => onChange({ criteria: { value: 1, ...criteria, operator } })} />
        <${Whole} label="How often in an interval" value=${criteria?.value} placeholder="1" onChange=${(/** @type {number | undefined} */ value) => onChange({ criteria: value === undefined ? undefined : { operator: "gte", ...criteria, value } })} /> <span>times in an interval</span>
      </div>
    <//>
    <${Shared} question=${question} onChange=${onChange} />
    <${Part} name="Show"><div class="row">
      <${Field} label="Intervals together" inline><${Whole} label="Intervals that are taken together" value=${question.interval_count} placeholder="1" onChange=${(/** @type {number | undefined} */ interval_count) => onChange({ interval_count })} /><//>
      <${Check} label="At least so many" testid="cumulative" checked=${question.cumulative === true} onChange=${(/** @type {boolean} */ on) => onChange({ cumulative: on || undefined })} />
    </div><//>`;
}

const FORMS = { trends: TrendsForm, funnel: FunnelForm, retention: RetentionForm, lifecycle: LifecycleForm, stickiness: StickinessForm, paths: PathsForm };

/** @param {FormProps & {kind: import("./words.js").Kind}} props */
export function Form({ kind, question, onChange }) {
  return html`<form class="builder" aria-label="Question" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}><${FORMS[kind]} question=${question} onChange=${onChange} /></form>`;
}

/** @param {FormProps & {kind: import("./words.js").Kind}} props */
export function When({ kind, question, onChange }) {
  if (kind === "retention") return html`<div class="when"><${Periods} question=${question} onChange=${onChange} /></div>`;
  const interval = kind === "trends" || kind === "lifecycle" || kind === "stickiness" || (kind === "funnel" && question.viz === "trends");
  return html`<div class="when"><${Range} question=${question} onChange=${onChange} interval=${interval} compare=${kind === "trends" || kind === "stickiness"} /></div>`;
}
