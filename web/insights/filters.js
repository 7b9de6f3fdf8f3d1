// Filters: conditions in groups of AND and OR, as deep as the API takes them. And breakdowns: what a question is split by.
import { Field, html } from "../lib/page.js";
import { Chips } from "./combobox.js";
import { Check, Choice, GroupType, PropertyName, Remove, Text, Whole, groupOf, replaced, without } from "./fields.js";
import { filterList, list } from "./question.js";
import * as suggestions from "./suggestions.js";
import { ATTRIBUTIONS, FILTER_TYPES, PROPERTY_TYPES, operators, takes } from "./words.js";

/** @param {Filter} filter */
const isGroup = (filter) => filter.type === "AND" || filter.type === "OR";

/** A number where the text is one, so that the API compares numbers. @param {string} text */
const numeric = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);

/** The value as it may stay when another operator is chosen. @param {any} value @param {string} kind */
function fitting(value, kind) {
  if (kind === "none") return undefined;
  if (kind === "texts" || kind === "numbers") return list(value);
  return Array.isArray(value) ? value[0] : value;
}

/** @param {ValueProps} props */
function Value({ filter, event, onChange }) {
  const kind = takes(filter.operator);
  /** @param {any} value */
  const set = (value) => onChange({ ...filter, value });
  if (kind === "none") return null;
  if (kind === "texts") {
    const source = (/** @type {string} */ search) => suggestions.values({ ...filter, type: filter.type ?? "event", key: filter.key ?? "", event: event ?? null, search });
    return html`<${Chips} label="Value" values=${list(filter.value).map(String)} source=${source} searches onChange=${set} />`;
  }
  if (kind === "numbers") {
    const [low, high] = list(filter.value);
    return html`<${Text} label="From" value=${low} placeholder="from" onChange=${(text) => set([numeric(text), high ?? ""])} />
      <span>and</span><${Text} label="To" value=${high} placeholder="to" onChange=${(text) => set([low ?? "", numeric(text)])} />`;
  }
  const placeholder = { date: "2026-01-31 or -7d", number: "number", text: "value" }[kind];
  const read = kind === "number" ? numeric : (/** @type {string} */ text) => text;
  return html`<${Text} label="Value" value=${fitting(filter.value, kind)} placeholder=${placeholder} onChange=${(text) => set(text === "" ? undefined : read(text))} />`;
}

/** @param {CohortValueProps} props */
function CohortValue({ filter, onChange }) {
  const names = suggestions.useCohortNames();
  return html`<${Chips} label="Cohort" values=${list(filter.value).map(String)} source=${() => suggestions.properties("cohort")} placeholder="cohort"
    nameOf=${(id) => names.get(id) ?? id} onChange=${(value) => onChange({ ...filter, value })} />`;
}

/** @param {ConditionProps} props */
function Condition({ filter, event, onChange, onRemove }) {
  const type = filter.type ?? "event";
  const choices = operators(filter).map(([value, label]) => /** @type {[string, string]} */ ([value, label]));
  return html`<div class="condition" role="group" aria-label="Filter">
    <${Choice} label="Filter by" value=${type} choices=${FILTER_TYPES} onChange=${(next) => onChange(next === "cohort" ? { type: next, operator: "in", value: [] } : { type: next, operator: filter.operator ?? "exact" })} />
    ${type === "group" && html`<${GroupType} of=${filter} onChange=${onChange} />`}
    ${type !== "cohort" && html`<${PropertyName} label="Property" type=${type} group=${groupOf(filter)} value=${filter.key} onChange=${(key) => onChange({ ...filter, key })} />`}
    <${Choice} label="Operator" value=${filter.operator ?? "exact"} choices=${choices} onChange=${(operator) => onChange({ ...filter, operator, value: fitting(filter.value, takes(operator)) })} />
    ${type === "cohort" ? html`<${CohortValue} filter=${filter} onChange=${onChange} />` : html`<${Value} filter=${filter} event=${event} onChange=${onChange} />`}
    <${Remove} what="filter" onClick=${onRemove} />
  </div>`;
}

const BLANK = { type: "event", operator: "exact" };

/**
 * @param {MembersProps} props
 */
function Members({ filters, joined, event, depth, onChange }) {
  return html`${filters.map(
      (filter, index) => html`<div class="member" key=${index}>
        ${index > 0 && html`<span class="joined muted">${joined}</span>`}
        ${isGroup(filter)
          ? html`<${Group} group=${filter} event=${event} depth=${depth + 1} onChange=${(next) => onChange(replaced(filters, index, next))} onRemove=${() => onChange(without(filters, index))} />`
          : html`<${Condition} filter=${filter} event=${event} onChange=${(next) => onChange(replaced(filters, index, next))} onRemove=${() => onChange(without(filters, index))} />`}
      </div>`,
    )}
    <div class="row">
      <button type="button" class="quiet" onClick=${() => onChange([...filters, { ...BLANK }])}>+ Filter</button>
      ${depth < 9 && html`<button type="button" class="quiet" onClick=${() => onChange([...filters, { type: joined === "AND" ? "OR" : "AND", values: [{ ...BLANK }] }])}>+ Group</button>`}
    </div>`;
}

/** @param {GroupProps} props */
function Group({ group, event, depth, onChange, onRemove }) {
  return html`<div class="filter-group" role="group" aria-label=${`Group of filters joined by ${group.type}`}>
    <div class="row">
      <${Choice} label="Joined by" value=${group.type} choices=${[["AND", "All of"], ["OR", "Any of"]]} onChange=${(type) => onChange({ ...group, type })} />
      <${Remove} what="group" onClick=${onRemove} />
    </div>
    <${Members} filters=${filterList(group.values)} joined=${group.type ?? "AND"} event=${event} depth=${depth} onChange=${(values) => onChange({ ...group, values })} />
  </div>`;
}

/**
 * @param {FiltersProps} props `event`: whose values are suggested
 */
export function Filters({ value, event, onChange }) {
  return html`<div class="filter-list"><${Members} filters=${filterList(value)} joined="AND" event=${event} depth=${1} onChange=${(filters) => onChange(filters.length > 0 ? filters : undefined)} /></div>`;
}

const PROPERTIES_MAX = 3;
const COHORT = /** @type {[string, string]} */ (["cohort", "Cohort"]);

/** Properties of a breakdown with the type of each. @param {Split | undefined} split @returns {{key: string, type: string}[]} */
function entries(split) {
  const types = list(split?.type);
  return list(split?.property).map((key, index) => ({ key: String(key), type: String(types[index] ?? types[0] ?? "event") }));
}

/** @param {{key: string, type: string}[]} chosen @param {boolean} oneType */
function written(chosen, oneType) {
  const types = [...new Set(chosen.map(({ type }) => type))];
  const type = types.length === 1 || oneType ? types[0] : chosen.map((one) => one.type);
  return { property: chosen.length === 1 ? chosen[0]?.key : chosen.map(({ key }) => key), type: type === "event" ? undefined : type };
}

/** @param {{type: string}[]} chosen */
const ofGroup = (chosen) => chosen.some(({ type }) => type === "group");

/**
 * @param {object} props
 * @param {Split | undefined} props.value
 * @param {(split: Split | undefined) => void} props.onChange
 * @param {"trends" | "funnel" | "retention"} props.kind
 * @param {number} [props.steps] of a funnel
 */
export function Breakdown({ value, onChange, kind, steps = 0 }) {
  const chosen = entries(value);
  const cohorts = list(value?.type)[0] === "cohort";
  const types = kind === "trends" ? [...PROPERTY_TYPES, COHORT] : PROPERTY_TYPES;
  const several = kind === "retention" ? 1 : PROPERTIES_MAX;
  /** @param {{key: string, type: string}[]} next */
  const set = (next) => onChange(next.length === 0 ? undefined : { ...value, ...written(next, kind !== "trends"), ...(ofGroup(next) ? {} : { group_type: undefined, group_type_index: undefined }) });
  /** @param {any} change */
  const change = (change) => onChange({ property: "", ...value, ...change });
  if (cohorts) return html`<${Cohorts} value=${value} types=${types} onChange=${onChange} />`;
  return html`
    ${chosen.map(
      ({ key, type }, index) => html`<div class="condition" key=${index}>
        <${Choice} label="Break down by" value=${type} choices=${types} onChange=${(next) => next === "cohort" ? onChange({ property: [], type: "cohort" }) : set(kind === "trends" ? replaced(chosen, index, { key: "", type: next }) : chosen.map(() => ({ key: "", type: next })))} />
        <${PropertyName} label="Property to break down by" testid="breakdown" type=${type} group=${groupOf(value)} value=${key} onChange=${(next) => set(replaced(chosen, index, { key: next, type }))} />
        <${Remove} what="breakdown" onClick=${() => set(without(chosen, index))} />
      </div>`,
    )}
    ${chosen.length < several && html`<button type="button" class="quiet" data-testid="add-breakdown" onClick=${() => set([...chosen, { key: "", type: chosen[0]?.type ?? "event" }])}>+ Breakdown</button>`}
    ${chosen.length > 0 && html`<div class="row">
      ${ofGroup(chosen) && html`<${GroupType} of=${value} onChange=${onChange} />`}
      <${Field} label="Values" inline><${Whole} label="Values with a row of their own" value=${value?.limit} max=${1000} placeholder="25" onChange=${(limit) => change({ limit })} /><//>
      ${kind === "trends" && chosen.length === 1 && html`<${Field} label="Bins" inline><${Whole} label="Bins of numbers" value=${value?.histogram_bins} max=${1000} placeholder="none" onChange=${(histogram_bins) => change({ histogram_bins })} /><//>`}
      <${Check} label="Hide all others" checked=${value?.hide_other === true} onChange=${(hide_other) => change({ hide_other: hide_other || undefined })} />
    </div>`}
    ${kind === "funnel" && chosen.length > 0 && html`<${Attribution} value=${value} steps=${steps} change=${change} />`}`;
}

/** @param {AttributionProps} props */
function Attribution({ value, steps, change }) {
  const attribution = value?.attribution ?? "first_touch";
  const choices = Array.from({ length: steps }, (_, index) => /** @type {[string, string]} */ ([String(index), `Step ${index + 1}`]));
  return html`<div class="row">
    <${Field} label="Value of" inline><${Choice} label="Attribution" value=${attribution} choices=${ATTRIBUTIONS} onChange=${(next) => change({ attribution: next, attribution_step: next === "step" ? 0 : undefined })} /><//>
    ${attribution === "step" && html`<${Choice} label="Step of the attribution" value=${String(value?.attribution_step ?? 0)} choices=${choices} onChange=${(step) => change({ attribution_step: Number(step) })} />`}
  </div>`;
}

/** @param {CohortsProps} props */
function Cohorts({ value, types, onChange }) {
  const names = suggestions.useCohortNames();
  const source = async () => [{ value: "all", label: "Everybody" }, ...(await suggestions.properties("cohort"))];
  return html`<div class="condition">
    <${Choice} label="Break down by" value="cohort" choices=${types} onChange=${(type) => onChange({ property: "", type })} />
    <${Chips} label="Cohort" placeholder="cohort" values=${list(value?.property).filter(Boolean)} source=${source} nameOf=${(id) => names.get(id) ?? id}
      onChange=${(property) => onChange({ property, type: "cohort" })} />
    <${Remove} what="breakdown" onClick=${() => onChange(undefined)} />
  </div>`;
}
