// Search: a screen by its name, an event name, an event by its id, a person by an id.
import { Dialog, Input } from "./parts.js";
import { go, path } from "./router.js";
import { SCREENS } from "./shell.js";
import { html, useEffect, useRef, useState } from "./ui.js";
import { useGet } from "./load.js";

/** @param {{onClose: () => void}} props */
export function Search({ onClose }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const names = useGet("/api/query/names");
  useEffect(() => box.current?.querySelector("input")?.focus(), []);
  useEffect(() => setAt(0), [text]);
  const found = results(text.trim(), names.data);
  const open = (/** @type {number} */ index) => {
    const one = found[index];
    if (!one) return;
    onClose();
    go(one.href);
  };
  const keys = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "ArrowDown") setAt(Math.min(found.length - 1, at + 1));
    else if (event.key === "ArrowUp") setAt(Math.max(0, at - 1));
    else if (event.key === "Enter") open(at);
    else return;
    event.preventDefault();
  };
  return html`<${Dialog} title="Search" onClose=${onClose} testid="search-dialog">
    <div ref=${box} onKeyDown=${keys}>
      <${Input} value=${text} onChange=${setText} wait=${0} placeholder="A screen, an event name, an event's id, a person" aria-label="Search" data-testid="search-text" />
      <ul class="results" role="listbox" aria-label="Results">
        ${found.map((one, index) => html`<li key=${one.href} role="option" aria-selected=${index === at} onClick=${() => open(index)} onMouseEnter=${() => setAt(index)}>
          <span class="muted small">${one.kind}</span> ${one.words}</li>`)}
      </ul>
    </div>
  <//>`;
}

/** @param {string} text @param {any} names */
function results(text, names) {
  const low = text.toLowerCase();
  const screens = SCREENS.filter(([name, words]) => `${name} ${words}`.toLowerCase().includes(low)).map(([name, words]) => ({ kind: "Screen", words, href: name === "start" ? "/" : `/${name}` }));
  if (!text) return screens;
  const events = (names?.events ?? []).filter((/** @type {any} */ one) => one.name.toLowerCase().includes(low)).slice(0, 8)
    .map((/** @type {any} */ one) => ({ kind: "Events named", words: one.name, href: path(["events"], { event: one.name }) }));
  return [
    ...screens, ...events,
    { kind: "Event with the id", words: text, href: path(["events", text]) },
    { kind: "Events of", words: text, href: path(["events"], { distinct_id: text }) },
  ];
}
