// Small fields that every form is made of. Each commits when it is left or Enter is pressed, so one change is one step
// back in the history.
import { html, Select, useEffect, useState } from "../lib/page.js";
import { Combobox } from "./combobox.js";
import * as suggestions from "./suggestions.js";

/**
 * @param {ChoiceProps} props
 */
export function Choice({ label, value, choices, onChange, testid }) {
  const known = !value || choices.some(([one]) => one === value);
  const options = known ? choices : [[value, value], ...choices];
  return html`<${Select} aria-label=${label} data-testid=${testid} value=${value ?? ""} options=${options} onChange=${onChange} />`;
}

/** @param {any} event */
const blurOnEnter = (event) => event.key === "Enter" && event.currentTarget.blur();

/** What is typed stays. @param {any} value */
function useTyped(value) {
  const [text, setText] = useState(value ?? "");
  useEffect(() => setText(value ?? ""), [value]);
  return { value: text, onKeyDown: blurOnEnter, onInput: (/** @type {any} */ event) => setText(event.currentTarget.value) };
}

/**
 * @param {TextProps} props
 */
export function Text({ label, value, onChange, placeholder, wide, testid }) {
  return html`<input type="text" class=${wide ? "wide" : ""} aria-label=${label} data-testid=${testid} placeholder=${placeholder} spellcheck=${false} ...${useTyped(value)}
    onChange=${(event) => onChange(event.currentTarget.value.trim())} />`;
}

/**
 * A whole number, or none.
 * @param {WholeProps} props
 */
export function Whole({ label, value, onChange, min = 1, max, placeholder, testid }) {
  return html`<input type="number" class="number" aria-label=${label} data-testid=${testid} min=${min} max=${max} step="1" placeholder=${placeholder} ...${useTyped(value)}
    onChange=${(event) => {
      const text = event.currentTarget.value;
      onChange(text === "" ? undefined : Math.trunc(Number(text)));
    }} />`;
}

/** @param {CheckProps} props */
export function Check({ label, checked, onChange, testid }) {
  return html`<label class="check"><input type="checkbox" data-testid=${testid} checked=${checked} onChange=${(event) => onChange(event.currentTarget.checked)} /> ${label}</label>`;
}

/** @param {{name: string, children?: any}} props */
export const Part = ({ name, children }) => html`<fieldset class="part"><legend>${name}</legend>${children}</fieldset>`;

/** A label beside controls of which there are several: a click on it chooses none of them. @param {{label: string, children?: any}} props */
export const Labelled = ({ label, children }) => html`<div class="field" role="group" aria-label=${label}><span class="label">${label}</span>${children}</div>`;

/** A button that takes something away. @param {{what: string, onClick: () => void}} props */
export const Remove = ({ what, onClick }) => html`<button type="button" class="quiet icon" aria-label=${`Remove ${what}`} title=${`Remove ${what}`} onClick=${onClick}>×</button>`;

const ANY = { value: "", label: "Any event" };

/**
 * The name of an event; null is any.
 * @param {EventNameProps} props
 */
export function EventName({ label, value, onChange, only, testid }) {
  return html`<${Combobox} label=${label} value=${value ?? ""} source=${suggestions.events} testid=${testid} placeholder="event"
    first=${only ? undefined : ANY} onChange=${(name) => onChange(name === "" ? null : name)} />`;
}

/**
 * The name of a property of this type.
 * @param {PropertyNameProps} props
 */
export function PropertyName({ label, type, group, value, onChange, testid }) {
  return html`<${Combobox} label=${label} value=${value ?? ""} source=${() => suggestions.properties(type, group)} testid=${testid} placeholder="property" onChange=${onChange} />`;
}

/** Whose group it is. @param {any} of */
export const groupOf = (of) => of?.group_type ?? of?.group_type_index;

/**
 * The type of a group, by its name, or by its number where it has none.
 * @param {GroupTypeProps} props `prefix`: of what is written to `of`
 */
export function GroupType({ label, of, prefix = "", onChange }) {
  const [name, index] = [`${prefix}group_type`, `${prefix}group_type_index`];
  return html`<${Combobox} label=${label ?? "Type of group"} value=${String(of?.[name] ?? of?.[index] ?? "")} source=${suggestions.groups} placeholder="type of group"
    onChange=${(text) => onChange({ ...of, [name]: /^\d$/.test(text) ? undefined : text, [index]: /^\d$/.test(text) ? Number(text) : undefined })} />`;
}

/** The list with another entry at `index`. @template T @param {T[]} list @param {number} index @param {T} next @returns {T[]} */
export const replaced = (list, index, next) => list.map((one, other) => (other === index ? next : one));
/** The list without the entry at `index`. @template T @param {T[]} list @param {number} index @returns {T[]} */
export const without = (list, index) => list.filter((_, other) => other !== index);
/** The list with the entry at `index` one further up or down. @template T @param {T[]} list @param {number} index @param {number} by @returns {T[]} */
export function moved(list, index, by) {
  const next = [...list];
  const [one] = next.splice(index, 1);
  if (one !== undefined) next.splice(Math.max(0, Math.min(list.length - 1, index + by)), 0, one);
  return next;
}
