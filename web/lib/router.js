// Where the person is: the URL holds the whole state, so that back, reload and a copied link keep it.
import { html, signal } from "./ui.js";

/** @returns {Place} */
function read() {
  const [screen = "", ...parts] = location.pathname.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { screen, parts, query: new URLSearchParams(location.search) };
}

/** @type {import("./ui.js").Signal<Place>} */
export const place = signal(read());

addEventListener("popstate", () => {
  place.value = read();
});

/**
 * Goes there.
 * @param {string} href a path with its query string
 * @param {{replace?: boolean}} [how]
 */
export function go(href, how = {}) {
  if (href === location.pathname + location.search) return;
  history[how.replace ? "replaceState" : "pushState"](null, "", href);
  const before = place.peek();
  place.value = read();
  if (!how.replace && before.screen !== place.peek().screen) scrollTo(0, 0);
}

/**
 * Changes parts of the query string; null and "" take one away. By default the step is not kept in the history: filters
 * that are typed would fill it.
 * @param {Record<string, string | null | undefined>} changes
 * @param {{push?: boolean}} [how]
 */
export function setQuery(changes, how = {}) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") query.delete(name);
    else query.set(name, value);
  }
  const text = query.toString();
  go(location.pathname + (text ? `?${text}` : ""), { replace: !how.push });
}

/**
 * A path from its parts.
 * @param {string[]} parts
 * @param {Record<string, string>} [query]
 */
export function path(parts, query) {
  const text = new URLSearchParams(query).toString();
  return "/" + parts.map(encodeURIComponent).join("/") + (text ? `?${text}` : "");
}

/** @param {MouseEvent} event */
function follow(event) {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = /** @type {HTMLAnchorElement} */ (event.currentTarget);
  if (link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
  event.preventDefault();
  go(link.pathname + link.search);
}

/** A link within the page. @param {any} props */
export function Link({ children, ...rest }) {
  return html`<a ...${rest} onClick=${follow}>${children}</a>`;
}
