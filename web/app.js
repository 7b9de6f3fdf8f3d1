// The page: the shell around the screens. /insights/trends is screens/insights.js, and so with every other.
import { ApiError } from "./lib/api.js";
import { Fault, Loading } from "./lib/load.js";
import { session } from "./lib/session.js";
import { Shell } from "./lib/shell.js";
import { place } from "./lib/router.js";
import { html, render, signal, useEffect, useState } from "./lib/ui.js";
import { Toasts } from "./lib/toast.js";

/** What the start of the page met. @type {import("./lib/ui.js").Signal<any>} */
const fault = signal(null);

/** @type {Map<string, any>} */
const loaded = new Map();

/** A screen's file, fetched when it is first looked at. @param {{name: string}} props */
function Screen({ name }) {
  const [, setTurn] = useState(0);
  const found = loaded.get(name);
  useEffect(() => {
    if (found) return;
    import(`./screens/${name}.js`).then(
      (module) => loaded.set(name, module.default),
      () => loaded.set(name, Missing),
    ).finally(() => setTurn((turn) => turn + 1));
  }, [name]);
  if (!found) return html`<${Loading} />`;
  const { parts, query } = place.value;
  return html`<${found} key=${name} parts=${parts} query=${query} />`;
}

/** A screen that does not load: its address is wrong, or the server has another version by now. */
function Missing() {
  return html`<div class="empty">
    <strong>This page could not be loaded</strong>
    <div>FlexFlow may have been updated since you opened it, or the address is wrong.</div>
    <button class="primary" onClick=${() => location.reload()}>Reload</button>
  </div>`;
}

async function begin() {
  fault.value = null;
  try {
    await session.begin();
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) session.ended();
    else fault.value = error;
  }
}

function App() {
  const name = place.value.screen || "start";
  let content;
  if (fault.value) content = html`<main class="alone"><${Fault} error=${fault.value} retry=${begin} /></main>`;
  else if (session.state.value === "unknown") content = html`<main class="alone"><${Loading} /></main>`;
  else if (session.state.value === "out") content = html`<main class="alone"><${Screen} name="login" /></main>`;
  else content = html`<${Shell}><${Screen} key=${name} name=${/^[a-z-]+$/.test(name) ? name : "start"} /><//>`;
  return html`${content}<${Toasts} />`;
}

const root = document.getElementById("app");
if (root) {
  root.replaceChildren();
  render(html`<${App} />`, root);
}
void begin();
