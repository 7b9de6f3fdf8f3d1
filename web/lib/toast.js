// Short notices at the edge of the page.
import { html, signal } from "./ui.js";

/** @type {import("./ui.js").Signal<Notice[]>} */
const notices = signal([]);
let last = 0;

/**
 * Says something to the person. A warning or a fault stays until it is closed.
 * @param {string} text
 * @param {{kind?: "good" | "warning" | "bad", name?: string}} [how] `name`: replaces the notice of this name
 */
export function toast(text, how = {}) {
  const notice = { id: ++last, text, kind: how.kind ?? "good", name: how.name };
  notices.value = [...notices.peek().filter((one) => !how.name || one.name !== how.name), notice].slice(-5);
  if (notice.kind === "good") setTimeout(() => close(notice.id), 5000);
}

/** @param {number} id */
function close(id) {
  notices.value = notices.peek().filter((one) => one.id !== id);
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite" data-testid="notices">
    ${notices.value.map(
      (one) => html`<div class="toast ${one.kind}" key=${one.id}>
        <span>${one.text}</span>
        <button class="quiet icon" aria-label="Close this notice" onClick=${() => close(one.id)}>×</button>
      </div>`,
    )}
  </div>`;
}
