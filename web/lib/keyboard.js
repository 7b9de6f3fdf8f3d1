// Keys: one list, which the help dialog shows.
import { useEffect, signal } from "./ui.js";

/** @type {import("./ui.js").Signal<Shortcut[]>} */
export const shortcuts = signal([]);
let before = "";
let beforeAt = 0;

/** @param {EventTarget | null} target */
function typing(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  const chord = event.timeStamp - beforeAt < 1500 ? `${before} ${event.key}` : event.key;
  const found = shortcuts.peek().find((one) => one.keys === chord) ?? shortcuts.peek().find((one) => one.keys === event.key);
  [before, beforeAt] = [event.key, event.timeStamp];
  if (!found) return;
  event.preventDefault();
  before = "";
  found.run(event);
});

/**
 * A key, or two after each other ("g e"), while the component is there.
 * @param {string} keys
 * @param {string} what
 * @param {(event: KeyboardEvent) => void} run
 */
export function useShortcut(keys, what, run) {
  useEffect(() => {
    const one = { keys, what, run };
    shortcuts.value = [...shortcuts.peek(), one];
    return () => {
      shortcuts.value = shortcuts.peek().filter((other) => other !== one);
    };
  }, [keys, what, run]);
}
