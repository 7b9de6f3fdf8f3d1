// What stands around every screen: where one can go, where one is, who one is; search and help.
import { go, Link, place } from "./router.js";
import { Dialog, Field, Select } from "./parts.js";
import { Search } from "./search.js";
import { session } from "./session.js";
import { setTheme, theme } from "./theme.js";
import { ownZone, projectZone, setZone, zones } from "./format.js";
import { shortcuts, useShortcut } from "./keyboard.js";
import { html, useCallback, useEffect, useState } from "./ui.js";

/** Every screen one can go to: [address, words, letter behind g, group, who: owners only]. */
export const SCREENS = /** @type {const} */ ([
  ["start", "Start", "s", "", false],
  ["live", "Live events", "l", "Data", false],
  ["events", "Events", "e", "Data", false],
  ["persons", "People", "o", "Data", false],
  ["insights", "Insights", "i", "Analysis", false],
  ["dashboards", "Dashboards", "d", "Analysis", false],
  ["attribution", "Attribution", "a", "Analysis", false],
  ["usage", "Usage", "u", "Billing", false],
  ["pipeline", "Pipeline", "p", "Operations", true],
  ["dead-letters", "Dead letters", "q", "Operations", true],
  ["transforms", "Transforms", "f", "Settings", false],
  ["schemas", "Schemas", "c", "Settings", false],
  ["webhooks", "Webhooks", "w", "Settings", true],
  ["settings", "Settings", "t", "Settings", false],
]);

/** @param {{children: any}} props */
export function Shell({ children }) {
  const [help, setHelp] = useState(false);
  const [search, setSearch] = useState(false);
  const [menu, setMenu] = useState(false);
  const current = place.value.screen || "start";
  useShortcut("?", "Show these keys", useCallback(() => setHelp(true), []));
  useShortcut("/", "Search: screens, event names, an event's id, a person", useCallback(() => setSearch(true), []));
  useEffect(() => {
    setMenu(false);
    const words = SCREENS.find(([name]) => name === current)?.[1] ?? "FlexFlow";
    document.title = `${words} · FlexFlow`;
  }, [current]);
  return html`<div class=${menu ? "shell open" : "shell"}>
    <a class="skip" href="#main">Skip to the content</a>
    <${Side} current=${current} />
    <div class="page">
      <header class="top">
        <button class="quiet icon menu" aria-label="Menu" aria-expanded=${menu} onClick=${() => setMenu(!menu)}>☰</button>
        <${Places} />
        <button class="search" onClick=${() => setSearch(true)} data-testid="search"><span>Search</span><kbd>/</kbd></button>
        <${Person} onHelp=${() => setHelp(true)} />
      </header>
      <main id="main" data-screen=${current}>${children}</main>
    </div>
    ${help ? html`<${Help} onClose=${() => setHelp(false)} />` : null}
    ${search ? html`<${Search} onClose=${() => setSearch(false)} />` : null}
  </div>`;
}

/** @param {{current: string}} props */
function Side({ current }) {
  const owner = session.role() === "owner";
  const shown = SCREENS.filter(([, , , , owners]) => owner || !owners);
  const groups = [...new Set(shown.map(([, , , group]) => group))];
  return html`<nav class="side" aria-label="Screens">
    <${Link} class="brand" href="/"><span class="mark" aria-hidden="true"></span>FlexFlow<//>
    ${groups.map((group) => html`<div class="group" key=${group}>
      ${group ? html`<div class="caption">${group}</div>` : null}
      ${shown.filter((one) => one[3] === group).map(([name, words, letter]) => html`<${Entry} key=${name} name=${name} words=${words} letter=${letter} current=${current} />`)}
    </div>`)}
  </nav>`;
}

/** @param {EntryProps} props */
function Entry({ name, words, letter, current }) {
  const href = name === "start" ? "/" : `/${name}`;
  useShortcut(`g ${letter}`, `Go to ${words}`, useCallback(() => go(href), [href]));
  return html`<${Link} href=${href} aria-current=${current === name ? "page" : undefined} data-testid=${`nav-${name}`}>${words}<//>`;
}

/** The chosen project and environment. */
function Places() {
  const { project, environment } = session.scope.value;
  const all = session.projects.value;
  const environments = all.find((one) => one.id === project)?.environments ?? [];
  const choose = (/** @type {string} */ id) => {
    const next = all.find((one) => one.id === id);
    const same = environments.find((one) => one.id === environment)?.name;
    const within = next?.environments.find((one) => one.name === same) ?? next?.environments[0];
    if (next && within) session.choose({ project: id, environment: within.id });
  };
  if (all.length === 0) return html`<div class="places muted">No project yet</div>`;
  return html`<div class="places">
    <${Select} aria-label="Project" data-testid="project" value=${project} options=${all.map((one) => [one.id, one.name])} onChange=${choose} />
    <span aria-hidden="true" class="muted">/</span>
    <${Select} aria-label="Environment" data-testid="environment" value=${environment} options=${environments.map((one) => [one.id, one.name])}
      onChange=${(id) => session.choose({ project, environment: id })} />
  </div>`;
}

/** @param {{onHelp: () => void}} props */
function Person({ onHelp }) {
  const user = session.user.value;
  return html`<details class="person">
    <summary aria-label="You and the page's settings" data-testid="person">${(user?.name || user?.email || "?").slice(0, 1).toUpperCase()}</summary>
    <div class="panel">
      <div><strong>${user?.name}</strong><div class="muted small">${user?.email}</div></div>
      <${Habits} />
      <button onClick=${onHelp}>Keys <kbd>?</kbd></button>
      <a href="/api/docs" target="_blank" rel="noopener">API reference</a>
      <button onClick=${session.logout} data-testid="logout">Log out</button>
    </div>
  </details>`;
}

export const Habits = () => html`<${Field} label="Theme"><${Select} value=${theme.value} options=${[["system", "As the system"], ["light", "Light"], ["dark", "Dark"]]} onChange=${setTheme} data-testid="theme" /><//>
  <${Field} label="Time zone"><${Select} value=${ownZone.value} options=${[["", `The project's: ${projectZone.value}`], ...zones()]} onChange=${setZone} data-testid="zone" /><//>`;

/** @param {{onClose: () => void}} props */
function Help({ onClose }) {
  const all = [...shortcuts.value].sort((one, other) => one.keys.length - other.keys.length || one.keys.localeCompare(other.keys));
  return html`<${Dialog} title="Keys" onClose=${onClose} testid="help">
    <dl class="keys">${all.map((one) => html`<div key=${one.keys}><dt>${one.keys.split(" ").map((key) => html`<kbd key=${key}>${key}</kbd> `)}</dt><dd>${one.what}</dd></div>`)}
      <div><dt><kbd>Enter</kbd></dt><dd>Open the row that has the focus</dd></div>
      <div><dt><kbd>Esc</kbd></dt><dd>Close what is open</dd></div>
    </dl>
  <//>`;
}
