// The builder: a form for each kind of question. A form edits the question's JSON and nothing else.
import { Field, html } from "../lib/page.js";
import { Chips } from "./combobox.js";
import { Check, Choice, EventName, GroupType, Labelled, Part, PropertyName, Remove, Text, Whole, groupOf, moved, replaced, without } from "./fields.js";
import { Breakdown, Filters } from "./filters.js";
import { list } from "./question.js";
import { Periods, Range } from "./range.js";
import * as suggestions from "./suggestions.js";
import { COMPARISONS, DISPLAYS, INCLUDES, MATHS, ORDERS, PROPERTY_TYPES, RETENTION_TYPES, VIZES, WINDOW_UNITS, isWhole, ofProperty } from "./words.js";

export const SERIES_MAX = 26;
/** The letter that a formula calls a series by. @param {number} index */
export const letter = (index) => String.fromCharCode(65 + index);

/** @param {MathChoiceProps} props */
function MathChoice({ value, onChange, label }) {
  return html`<select aria-label=${label} data-testid="math" value=${value ?? "total"} onChange=${(event) => onChange(event.currentTarget.value)}>
    ${MATHS.map(({ group, choices }) => html`<optgroup label=${group}>${choices.map(([one, name]) => html`<option value=${one} selected=${one === (value ?? "total")}>${name}</option>`)}</optgroup>`)}
  </select>`;
}

/**
 * One series: an event, what of it is counted, and its own filters.
 * @param {SeriesRowProps} props
 */
function SeriesRow({ one, index, count, math, onChange, onRemove, onMove }) {
  const name = `series ${letter(index)}`;
  return html`<div class="series" role="group" aria-label=${name}>
    <div class="condition">
      <span class="letter" aria-hidden="true">${letter(index)}</span>
      <${EventName} label=${`Event of ${name}`} testid="series-event" value=${one.event} onChange=${(event) => onChange({ ...one, event })} />
      ${math && html`<${MathChoice} label=${`What is counted of ${name}`} value=${one.math} onChange=${(next) => onChange({ ...one, math: next, ...(ofProperty(next) ? {} : { math_property: undefined, math_property_type: undefined }) })} />`}
      ${math && ofProperty(one.math) && html`<${MathProperty} one=${one} name=${name} onChange=${onChange} />`}
      ${math && one.math === "unique_group" && html`<${GroupType} label=${`Type of group of ${name}`} prefix="math_" of=${one} onChange=${onChange} />`}
      <span class="tools">
        ${count > 1 && index > 0 && html`<button type="button" class="quiet icon" aria-label=${`Move ${name} up`} onClick=${() => onMove(-1)}>↑</button>`}
        ${count > 1 && html`<${Remove} what=${name} onClick=${onRemove} />`}
      </span>
    </div>
    <${Filters} value=${one.filters} event=${one.event} onChange=${(filters) => onChange({ ...one, filters })} />
  </div>`;
}

/** @param {MathPropertyProps} props */
function MathProperty({ one, name, onChange }) {
  const type = one.math_property_type ?? "event";
  return html`<span>of</span>
    <${Choice} label=${`Whose property of ${name}`} value=${type} choices=${[["event", "Event"], ["person", "Person"]]} onChange=${(next) => onChange({ ...one, math_property_type: next === "event" ? undefined : next, math_property: undefined })} />
    <${PropertyName} label=${`Property of ${name}`} testid="math-property" type=${type} value=${one.math_property} onChange=${(math_property) => onChange({ ...one, math_property })} />`;
}

/** @param {FormProps & {max: number, math?: boolean}} props */
function SeriesList({ question, onChange, max, math = false }) {
  const all = list(question.series);
  /** @param {any[]} series */
  const set = (series) => onChange({ series });
  return html`${all.map(
      (one, index) => html`<${SeriesRow} key=${index} one=${one} index=${index} count=${all.length} math=${math}
        onChange=${(next) => set(replaced(all, index, next))} onRemove=${() => set(without(all, index))} onMove=${(by) => set(moved(all, index, by))} />`,
    )}
    ${all.length < max && html`<button type="button" data-testid="add-series" onClick=${() => set([...all, { event: null, ...(math ? { math: "total" } : {}) }])}>+ Series</button>`}`;
}

/** Filters that hold for the whole question. @param {FormProps} props */
function Shared({ question, onChange }) {
  return html`<${Part} name="Filters for everything"><${Filters} value=${question.filters} onChange=${(filters) => onChange({ filters })} />
    <${Check} label="Leave test accounts out" testid="test-accounts" checked=${question.filter_test_accounts === true} onChange=${(on) => onChange({ filter_test_accounts: on || undefined })} /><//>`;
}

/** @param {FormProps} props */
function TrendsForm({ question, onChange }) {
  const formulas = [question.formula, ...list(question.formulas)].filter((one) => one !== undefined && one !== null);
  /** @param {string[]} next */
  const setFormulas = (next) => onChange({ formula: undefined, formulas: next.filter(Boolean).length > 0 ? next.filter(Boolean) : undefined });
  return html`
    <${Part} name="Series"><${SeriesList} question=${question} onChange=${onChange} max=${SERIES_MAX} math /><//>
    <${Part} name="Formula">
      ${[...formulas, ""].slice(0, SERIES_MAX).map((formula, index) => html`<${Text} key=${index} label=${`Formula ${index + 1}`} testid="formula" value=${formula} placeholder="A / B * 100" onChange=${(text) => setFormulas([...formulas.slice(0, index), text, ...formulas.slice(index + 1)])} />`)}
    <//>
    <${Part} name="Breakdown"><${Breakdown} kind="trends" value=${question.breakdown} onChange=${(breakdown) => onChange({ breakdown })} /><//>
    <${Shared} question=${question} onChange=${onChange} />
    <${Part} name="Show"><div class="row">
      <${Field} label="As" inline><${Choice} label="Display" testid="display" value=${question.display ?? "line"} choices=${DISPLAYS} onChange=${(display) => onChange({ display: display === "line" ? undefined : display })} /><//>
      ${!isWhole(question.display) && html`<${Field} label="Mean of" inline><${Whole} label="Smoothing, in intervals" value=${question.smoothing} placeholder="1" onChange=${(smoothing) => onChange({ smoothing })} /><//>`}
    </div><//>`;
}

/** @param {FormProps} props */
function RetentionForm({ question, onChange }) {
  return html`
    <${Part} name="Begins with">
      <div class="condition"><${EventName} label="Event that begins" testid="target-event" value=${question.target_event} onChange=${(target_event) => onChange({ target_event })} />
        <${Choice} label="Which of these events begin" testid="retention-type" value=${question.retention_type ?? "recurring"} choices=${RETENTION_TYPES} onChange=${(retention_type) => onChange({ retention_type })} /></div>
      <${Filters} value=${question.target_filters} event=${question.target_event} onChange=${(target_filters) => onChange({ target_filters })} />
    <//>
    <${Part} name="Comes back with">
      <${EventName} label="Event that comes back" testid="returning-event" value=${question.returning_event} onChange=${(returning_event) => onChange({ returning_event })} />
      <${Filters} value=${question.returning_filters} event=${question.returning_event} onChange=${(returning_filters) => onChange({ returning_filters })} />
      <div class="row">
        <${Field} label="At least" hint="times in an interval" inline><${Whole} label="Events in an interval that make a return" value=${question.min_occurrences} max=${1000} placeholder="1" onChange=${(min_occurrences) => onChange({ min_occurrences })} /><//>
        <${Check} label="Count up to the last return" testid="cumulative" checked=${question.cumulative === true} onChange=${(on) => onChange({ cumulative: on || undefined })} />
      </div>
    <//>
    <${Part} name="Breakdown"><${Breakdown} kind="retention" value=${question.breakdown} onChange=${(breakdown) => onChange({ breakdown })} /><//>
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
        <${Choice} label="How often, compared" value=${criteria?.operator ?? "gte"} choices=${COMPARISONS} onChange=${(operator) => onChange({ criteria: { value: 1, ...criteria, operator } })} />
        <${Whole} label="How often in an interval" value=${criteria?.value} placeholder="1" onChange=${(value) => onChange({ criteria: value === undefined ? undefined : { operator: "gte", ...criteria, value } })} /> <span>times in an interval</span>
      </div>
    <//>
    <${Shared} question=${question} onChange=${onChange} />
    <${Part} name="Show"><div class="row">
      <${Field} label="Intervals together" inline><${Whole} label="Intervals that are taken together" value=${question.interval_count} placeholder="1" onChange=${(interval_count) => onChange({ interval_count })} /><//>
      <${Check} label="At least so many" testid="cumulative" checked=${question.cumulative === true} onChange=${(on) => onChange({ cumulative: on || undefined })} />
    </div><//>`;
}

const STEPS_MAX = 16;
const EXCLUSIONS_MAX = 6;

/**
 * @param {StepProps} props
 */
function Step({ step, index, count, onChange, onRemove, onMove }) {
  const name = `step ${index + 1}`;
  return html`<div class="series" role="group" aria-label=${name}>
    <div class="condition">
      <span class="letter" aria-hidden="true">${index + 1}</span>
      <${EventName} label=${`Event of ${name}`} testid="step-event" value=${step.event} onChange=${(event) => onChange({ ...step, event })} />
      <${Text} label=${`Name of ${name}`} value=${step.name} placeholder="name" onChange=${(text) => onChange({ ...step, name: text || undefined })} />
      <span class="tools">
        ${index > 0 && html`<button type="button" class="quiet icon" aria-label=${`Move ${name} up`} onClick=${() => onMove(-1)}>↑</button>`}
        ${count > 2 && html`<${Remove} what=${name} onClick=${onRemove} />`}
      </span>
    </div>
    <${Filters} value=${step.filters} event=${step.event} onChange=${(filters) => onChange({ ...step, filters })} />
  </div>`;
}

/** @param {ExclusionProps} props */
function Exclusion({ excluded, index, steps, onChange, onRemove }) {
  const last = steps.length - 1;
  return html`<div class="series" role="group" aria-label=${`exclusion ${index + 1}`}>
    <div class="condition">
      <${EventName} label=${`Event of exclusion ${index + 1}`} only value=${excluded.event} onChange=${(event) => onChange({ ...excluded, event })} />
      <span>between</span>
      <${Choice} label="From step" value=${String(excluded.from_step ?? 0)} choices=${steps} onChange=${(step) => onChange({ ...excluded, from_step: Number(step) })} />
      <span>and</span>
      <${Choice} label="To step" value=${String(excluded.to_step ?? last)} choices=${steps} onChange=${(step) => onChange({ ...excluded, to_step: Number(step) })} />
      <${Remove} what="exclusion" onClick=${onRemove} />
    </div>
    <${Filters} value=${excluded.filters} event=${excluded.event} onChange=${(filters) => onChange({ ...excluded, filters })} />
  </div>`;
}

/** What a funnel counts. @param {{of: any, onChange: (of: any) => void}} props */
function Counted({ of, onChange }) {
  const type = of?.type ?? "";
  return html`<div class="row">
    <${Field} label="Counts" inline><${Choice} label="What is counted" testid="aggregate-by" value=${type} choices=${[["", "People"], ...PROPERTY_TYPES]} onChange=${(next) => onChange(next ? { type: next, property: next === "group" ? "$group_key" : "" } : undefined)} /><//>
    ${type === "group" && html`<${GroupType} of=${of} onChange=${onChange} />`}
    ${type && html`<${PropertyName} label="Property that is counted" type=${type} group=${groupOf(of)} value=${of.property} onChange=${(property) => onChange({ ...of, property })} />`}
  </div>`;
}

/** @param {FunnelFormProps} props */
function FunnelForm({ question, onChange }) {
  const steps = list(question.steps);
  const exclusions = list(question.exclusions);
  const names = steps.map((_, index) => /** @type {[string, string]} */ ([String(index), `step ${index + 1}`]));
  const [count = "14", unit = "day"] = String(question.window ?? "14 day").split(" ");
  /** @param {any[]} next */
  const setSteps = (next) => onChange({ steps: next });
  return html`
    <${Part} name="Steps">
      ${steps.map(
        (step, index) => html`<${Step} key=${index} step=${step} index=${index} count=${steps.length} onChange=${(next) => setSteps(replaced(steps, index, next))}
          onRemove=${() => setSteps(without(steps, index))} onMove=${(by) => setSteps(moved(steps, index, by))} />`,
      )}
      ${steps.length < STEPS_MAX && html`<button type="button" data-testid="add-step" onClick=${() => setSteps([...steps, { event: null }])}>+ Step</button>`}
      <div class="row">
        <${Choice} label="Order of the steps" testid="order" value=${question.order ?? "ordered"} choices=${ORDERS} onChange=${(order) => onChange({ order: order === "ordered" ? undefined : order })} />
      </div>
      <${Counted} of=${question.aggregate_by} onChange=${(aggregate_by) => onChange({ aggregate_by })} />
      <div class="row">
        <${Field} label="Within" inline><${Whole} label="Time to convert" testid="window" value=${Number(count)} onChange=${(next) => onChange({ window: `${next ?? 14} ${unit}` })} /><//>
        <${Choice} label="Unit of the time to convert" value=${unit} choices=${WINDOW_UNITS} onChange=${(next) => onChange({ window: `${count} ${next}` })} />
      </div>
    <//>
    <${Part} name="Must not happen in between">
      ${exclusions.map(
        (excluded, index) => html`<${Exclusion} key=${index} excluded=${excluded} index=${index} steps=${names} onChange=${(next) => onChange({ exclusions: replaced(exclusions, index, next) })} onRemove=${() => onChange({ exclusions: without(exclusions, index) })} />`,
      )}
      ${exclusions.length < EXCLUSIONS_MAX && html`<button type="button" class="quiet" onClick=${() => onChange({ exclusions: [...exclusions, { event: "" }] })}>+ Exclusion</button>`}
    <//>
    <${Part} name="Breakdown"><${Breakdown} kind="funnel" steps=${steps.length} value=${question.breakdown} onChange=${(breakdown) => onChange({ breakdown })} /><//>
    <${Shared} question=${question} onChange=${onChange} />
    <${Part} name="Show"><div class="row">
      <${Choice} label="What is shown" testid="viz" value=${question.viz ?? "steps"} choices=${VIZES} onChange=${(viz) => onChange({ viz: viz === "steps" ? undefined : viz, interval: viz === "trends" ? (question.interval ?? "day") : undefined })} />
      ${question.viz && question.viz !== "steps" && html`<span>from</span>
        <${Choice} label="From step" value=${String(question.from_step ?? 0)} choices=${names} onChange=${(step) => onChange({ from_step: Number(step) })} />
        <span>to</span>
        <${Choice} label="To step" value=${String(question.to_step ?? steps.length - 1)} choices=${names} onChange=${(step) => onChange({ to_step: Number(step) })} />`}
      ${question.viz === "time_to_convert" && html`<${Field} label="Bars" inline><${Whole} label="Bars" value=${question.bin_count} max=${90} placeholder="auto" onChange=${(bin_count) => onChange({ bin_count })} /><//>`}
    </div><//>`;
}

/** Pages and names that a path may have. @returns {Promise<Suggestion[]>} */
async function nodes() {
  const [pages, events] = await Promise.all([suggestions.values({ type: "event", key: "$current_url", event: "$pageview" }), suggestions.events()]);
  return [...pages, ...events.filter(({ value }) => value !== "$pageview" && value !== "$screen")];
}

/** @param {PathsFormProps} props */
function PathsForm({ question, onChange }) {
  const include = list(question.include);
  const cleaning = list(question.cleaning);
  const none = async () => [];
  return html`
    <${Part} name="A path is made of">
      <div class="row">${INCLUDES.map(([value, name]) => html`<${Check} key=${value} label=${name} checked=${include.includes(value)} onChange=${(on) => onChange({ include: on ? [...include, value] : include.filter((one) => one !== value) })} />`)}
        <span class="muted">${include.length === 0 ? "everything" : ""}</span></div>
      <${Labelled} label="Leave out"><${Chips} label="Left out" placeholder="page or event" values=${list(question.exclude)} source=${nodes} onChange=${(exclude) => onChange({ exclude })} /><//>
      <${Labelled} label="Take together"><${Chips} label="Wildcard" placeholder="/product/*" values=${list(question.path_groups)} source=${none} onChange=${(path_groups) => onChange({ path_groups })} /><//>
      ${cleaning.map(
        (rule, index) => html`<div class="condition" key=${index}>
          <${Text} label="Regex" value=${rule.regex} placeholder="[0-9]+" onChange=${(regex) => onChange({ cleaning: replaced(cleaning, index, { ...rule, regex }) })} /> <span aria-hidden="true">→</span>
          <${Text} label="What to write in its place" value=${rule.alias} placeholder="ID" onChange=${(alias) => onChange({ cleaning: replaced(cleaning, index, { ...rule, alias }) })} />
          <${Remove} what="rule" onClick=${() => onChange({ cleaning: without(cleaning, index) })} />
        </div>`,
      )}
      <button type="button" class="quiet" onClick=${() => onChange({ cleaning: [...cleaning, { regex: "", alias: "" }] })}>+ Clean names by regex</button>
    <//>
    <${Part} name="Which paths">
      <div class="row">
        <${Labelled} label="From"><${NodeName} label="Start point" testid="start-point" value=${question.start_point} onChange=${(start_point) => onChange({ start_point })} /><//>
        <${Labelled} label="To"><${NodeName} label="End point" testid="end-point" value=${question.end_point} onChange=${(end_point) => onChange({ end_point })} /><//>
      </div>
      <div class="row">
        <${Field} label="Steps"><${Whole} label="Steps of a path" testid="step-limit" value=${question.step_limit} max=${20} min=${2} placeholder="5" onChange=${(step_limit) => onChange({ step_limit })} /><//>
        <${Field} label="Edges"><${Whole} label="Edges that are shown" testid="edge-limit" value=${question.edge_limit} max=${1000} placeholder="50" onChange=${(edge_limit) => onChange({ edge_limit })} /><//>
        <${Field} label="At least"><${Whole} label="Fewest paths of an edge" value=${question.min_edge_weight} placeholder="1" onChange=${(min_edge_weight) => onChange({ min_edge_weight })} /><//>
        <${Field} label="At most"><${Whole} label="Most paths of an edge" value=${question.max_edge_weight} placeholder="any" onChange=${(max_edge_weight) => onChange({ max_edge_weight })} /><//>
      </div>
    <//>
    <${Around} question=${question} onChange=${onChange} />
    <${Shared} question=${question} onChange=${onChange} />`;
}

/** @param {NodeNameProps} props */
function NodeName({ label, value, testid, onChange }) {
  return html`<${Chips} label=${label} testid=${testid} placeholder="any" values=${value ? [value] : []} source=${nodes} onChange=${(values) => onChange(values.at(-1))} />`;
}

/** Paths around a funnel come from the funnel's page; here they can be let go. @param {AroundProps} props */
function Around({ question, onChange }) {
  const around = question.funnel;
  if (!around) return null;
  const steps = list(around.funnel?.steps).map((step) => step.name ?? step.event ?? "any event");
  return html`<${Part} name="Around a funnel"><div class="row">
    <span>What people did <strong>${around.part}</strong> step ${Number(around.step) + 1} of <bdi>${steps.join(" → ")}</bdi></span>
    <${Remove} what="funnel" onClick=${() => onChange({ funnel: undefined })} />
  </div><//>`;
}

const FORMS = { trends: TrendsForm, funnel: FunnelForm, retention: RetentionForm, lifecycle: LifecycleForm, stickiness: StickinessForm, paths: PathsForm };

/** @param {FormProps & {kind: Kind}} props */
export function Form({ kind, question, onChange }) {
  return html`<form class="builder" aria-label="Question" onSubmit=${(event) => event.preventDefault()}><${FORMS[kind]} question=${question} onChange=${onChange} /></form>`;
}

/** @param {FormProps & {kind: Kind}} props */
export function When({ kind, question, onChange }) {
  if (kind === "retention") return html`<div class="when"><${Periods} question=${question} onChange=${onChange} /></div>`;
  const interval = kind === "trends" || kind === "lifecycle" || kind === "stickiness" || (kind === "funnel" && question.viz === "trends");
  return html`<div class="when"><${Range} question=${question} onChange=${onChange} interval=${interval} compare=${kind === "trends" || kind === "stickiness"} /></div>`;
}
