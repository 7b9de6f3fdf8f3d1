// Range, window, zone, groups and customer of usage; all of them stand in the address.
import { Field, html, setQuery, zones } from "../lib/page.js";
import { Combobox } from "../insights/combobox.js";
import { Choice, PropertyName } from "../insights/fields.js";
import * as suggestions from "../insights/suggestions.js";
import { RANGES, WINDOWS } from "./model.js";

const PROPERTY = "properties.";
/** @type {[string, string][]} */
const GROUPS = [["", "Nothing"], ["external_customer_id", "Customer"], ["source", "Source"], [PROPERTY, "A property…"]];

/** @param {Record<string, string | null>} changes */
const set = (changes) => setQuery(changes, { push: true });

/**
 * @param {ControlsProps} props `event`: whose customers are suggested
 */
export function Controls({ state, windows, groups, event }) {
  const all = zones().map((name) => /** @type {[string, string]} */ ([name, name]));
  const dates = state.range === "own";
  const date = (/** @type {"from" | "to"} */ name, /** @type {string} */ label) => html`<${Field} label=${label}><input type="date" aria-label=${label} data-testid=${name} value=${state[name]} onChange=${(event) => set({ [name]: event.currentTarget.value })} /><//>`;
  const isProperty = state.by.startsWith(PROPERTY);
  return html`<div class="when">
    <${Field} label="Range"><${Choice} label="Range" testid="range" value=${state.range} choices=${RANGES} onChange=${(range) => set({ range })} /><//>
    ${dates && date("from", "First day")}${dates && date("to", "Last day")}
    ${windows && html`<${Field} label="Window"><${Choice} label="Window" testid="window" value=${state.window} choices=${WINDOWS} onChange=${(window) => setQuery({ window: window || "WHOLE" }, { push: true })} /><//>`}
    ${groups && html`<${Field} label="By"><${Choice} label="Group by" testid="by" value=${isProperty ? PROPERTY : state.by} choices=${GROUPS} onChange=${(by) => set({ by })} /><//>
      ${isProperty && html`<div class="field"><span class="label">Property</span><${PropertyName} label="Property to group by" testid="by-property" type="event" value=${state.by.slice(PROPERTY.length)} onChange=${(key) => set({ by: PROPERTY + key })} /></div>`}
      <div class="field"><span class="label">Customer</span><${Combobox} label="Customer" testid="customer" value=${state.customer} placeholder="all" searches first=${{ value: "", label: "All customers" }}
        source=${(search) => suggestions.values({ type: "event_metadata", key: "distinct_id", event: event ?? null, search })} onChange=${(customer) => set({ customer })} /></div>`}
    <${Field} label="Time zone"><${Choice} label="Time zone" testid="timezone" value=${state.zone} choices=${all} onChange=${(zone) => set({ zone })} /><//>
  </div>`;
}
