// What a question is split by.
import { Field, html, useEffect, useState } from "../lib/page.js";
import { Chips } from "./combobox.js";
import { Check, Choice, PropertyName, Remove, Whole, replaced, without } from "./fields.js";
import { list } from "./question.js";
import * as suggestions from "./suggestions.js";
import { ATTRIBUTIONS, BREAKDOWN_TYPES } from "./words.js";

const PROPERTIES_MAX = 3;

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
  const types = kind === "trends" ? BREAKDOWN_TYPES : BREAKDOWN_TYPES.filter(([type]) => type !== "cohort");
  const several = kind === "retention" ? 1 : PROPERTIES_MAX;
  /** @param {{key: string, type: string}[]} next */
  const set = (next) => onChange(next.length === 0 ? undefined : { ...value, ...written(next, kind !== "trends") });
  /** @param {any} change */
  const change = (change) => onChange({ property: "", ...value, ...change });
  if (cohorts) return html`<${Cohorts} value=${value} types=${types} onChange=${onChange} />`;
  return html`
    ${chosen.map(
      ({ key, type }, index) => html`<div class="condition" key=${index}>
        <${Choice} label="Break down by" value=${type} choices=${types} onChange=${(next) => next === "cohort" ? onChange({ property: [], type: "cohort" }) : set(kind === "trends" ? replaced(chosen, index, { key: "", type: next }) : chosen.map(() => ({ key: "", type: next })))} />
        <${PropertyName} label="Property to break down by" testid="breakdown" type=${type} value=${key} onChange=${(next) => set(replaced(chosen, index, { key: next, type }))} />
        <${Remove} what="breakdown" onClick=${() => set(without(chosen, index))} />
      </div>`,
    )}
    ${chosen.length < several && html`<button type="button" class="quiet" data-testid="add-breakdown" onClick=${() => set([...chosen, { key: "", type: chosen[0]?.type ?? "event" }])}>+ Breakdown</button>`}
    ${chosen.length > 0 && html`<div class="row">
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
  const [names, setNames] = useState(/** @type {Map<string, string>} */ (new Map([["all", "Everybody"]])));
  useEffect(() => {
    suggestions.cohorts().then((all) => setNames(new Map([["all", "Everybody"], ...all.map(({ id, name }) => /** @type {[string, string]} */ ([id, name]))])), () => {});
  }, []);
  const source = async () => [{ value: "all", label: "Everybody" }, ...(await suggestions.properties("cohort"))];
  return html`<div class="condition">
    <${Choice} label="Break down by" value="cohort" choices=${types} onChange=${(type) => onChange({ property: "", type })} />
    <${Chips} label="Cohort" placeholder="cohort" values=${list(value?.property).filter(Boolean)} source=${source} nameOf=${(id) => names.get(id) ?? id}
      onChange=${(property) => onChange({ property, type: "cohort" })} />
    <${Remove} what="breakdown" onClick=${() => onChange(undefined)} />
  </div>`;
}
