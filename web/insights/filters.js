// Filters: conditions in groups of AND and OR, as deep as the API takes them.
import { html, useEffect, useState } from "../lib/page.js";
import { Chips } from "./combobox.js";
import { Choice, PropertyName, Remove, Text, replaced, without } from "./fields.js";
import { filterList, list } from "./question.js";
import * as suggestions from "./suggestions.js";
import { FILTER_TYPES, operators, takes } from "./words.js";

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
    const source = (/** @type {string} */ search) => suggestions.values({ type: filter.type ?? "event", key: filter.key ?? "", event: event ?? null, search });
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
  const [names, setNames] = useState(/** @type {Map<string, string>} */ (new Map()));
  useEffect(() => {
    suggestions.cohorts().then((all) => setNames(new Map(all.map(({ id, name }) => [id, name]))), () => {});
  }, []);
  return html`<${Chips} label="Cohort" values=${list(filter.value).map(String)} source=${() => suggestions.properties("cohort")} placeholder="cohort"
    nameOf=${(id) => names.get(id) ?? id} onChange=${(value) => onChange({ ...filter, value })} />`;
}

/** @param {ConditionProps} props */
function Condition({ filter, event, onChange, onRemove }) {
  const type = filter.type ?? "event";
  const choices = operators(type).map(([value, label]) => /** @type {[string, string]} */ ([value, label]));
  return html`<div class="condition" role="group" aria-label="Filter">
    <${Choice} label="Filter by" value=${type} choices=${FILTER_TYPES} onChange=${(next) => onChange(next === "cohort" ? { type: next, operator: "in", value: [] } : { type: next, operator: filter.operator ?? "exact" })} />
    ${type !== "cohort" && html`<${PropertyName} label="Property" type=${type} value=${filter.key} onChange=${(key) => onChange({ ...filter, key })} />`}
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
