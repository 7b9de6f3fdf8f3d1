// Data on its way: loading, empty, error, and the answer; each says what to do.
import { ApiError, get } from "./api.js";
import { number } from "./format.js";
import { session } from "./session.js";
import { html, useCallback, useEffect, useRef, useState } from "./ui.js";

/**
 * Asks, and asks anew when an input changes, or the project or environment does. A late answer to an old question is
 * dropped, and so is the answer of another environment.
 * @template T
 * @param {(signal: AbortSignal) => Promise<T>} ask
 * @param {any[]} inputs
 * @param {{every?: number}} [how] `every`: again after so many milliseconds, while the page is in sight
 * @returns {Load<T>}
 */
export function useLoad(ask, inputs, how = {}) {
  const { project, environment } = session.scope.value;
  const where = `${project} ${environment}`;
  /** @type {[{data: T | undefined, error: any, loading: boolean, at: number, where: string}, any]} */
  const [state, setState] = useState({ data: undefined, error: null, loading: true, at: 0, where });
  const [turn, setTurn] = useState(0);
  const current = useRef(ask);
  current.current = ask;
  const stop = useRef(/** @type {() => void} */ (() => {}));
  const waits = useRef(false);
  useEffect(() => {
    const abort = new AbortController();
    const done = (/** @type {any} */ next) => {
      if (abort.signal.aborted) return;
      waits.current = false;
      setState(next);
    };
    stop.current = () => {
      const error = new ApiError({ status: 0, code: "cancelled", message: "You cancelled this before it was answered." });
      done((/** @type {any} */ before) => (before.loading ? { ...before, error, loading: false } : before));
      abort.abort();
    };
    waits.current = true;
    setState((/** @type {any} */ before) => ({ ...before, data: before.where === where ? before.data : undefined, where, loading: true }));
    current.current(abort.signal).then(
      (data) => done({ data, error: null, loading: false, at: Date.now(), where }),
      (error) => done((/** @type {any} */ before) => ({ ...before, error, loading: false })),
    );
    return () => abort.abort();
  }, [...inputs, where, turn]);
  useEffect(() => {
    if (!how.every) return undefined;
    const timer = setInterval(() => document.hidden || waits.current || setTurn((turn) => turn + 1), how.every);
    return () => clearInterval(timer);
  }, [how.every]);
  const reload = useCallback(() => {
    setState((/** @type {any} */ before) => ({ ...before, error: null, loading: true }));
    setTurn((turn) => turn + 1);
  }, []);
  const cancel = useCallback(() => stop.current(), []);
  const { data, error, loading, at } = state;
  return { data: state.where === where ? data : undefined, error, loading, at, reload, cancel };
}

/**
 * Asks the API, and asks anew when the path or the query changes.
 * @param {string} path @param {Record<string, any>} [query] @param {{every?: number, unscoped?: boolean}} [how]
 * @returns {Load<any>}
 */
export const useGet = (path, query, how = {}) => useLoad((signal) => get(path, query, { signal, unscoped: how.unscoped }), [path, JSON.stringify(query)], how);

/**
 * What of a load can be shown: the answer by `children`, or what stands in its place.
 * @param {LoadedProps} props `what`: what is loaded, for the reader
 */
export function Loaded({ of, children, what }) {
  if (of.data !== undefined) {
    return html`<div class=${of.loading ? "stale" : ""} aria-busy=${of.loading}>
      <${Fault} error=${of.error} retry=${of.reload} />
      ${children(of.data)}
    </div>`;
  }
  if (of.error) return html`<${Fault} error=${of.error} retry=${of.reload} />`;
  return html`<${Loading} what=${what} cancel=${of.cancel} />`;
}

/** The way to give up comes up when it takes longer than usual (style.css). @param {{what?: string, cancel?: () => void}} props */
export function Loading({ what, cancel }) {
  return html`<div class="loading">
    <div role="status" data-testid="loading"><span class="spinner" aria-hidden="true"></span> Loading${what ? ` ${what}` : ""}…</div>
    ${cancel ? html`<button class="small late" onClick=${cancel} data-testid="cancel">Cancel</button>` : null}
  </div>`;
}

/** What somebody can do about a fault, by its code. @param {any} error */
function cure(error) {
  if (!(error instanceof ApiError)) return "This is a fault of the page. Reload it; if it stays, report what stands above.";
  switch (error.code) {
    case "unreachable": return "Check that the server runs, then try again. Nothing you did here is lost.";
    case "service_unavailable": return "A part behind the server does not answer now. Accepted events are safe. The page Pipeline says which part and what to do.";
    case "permission_denied": return "Your role does not allow this. An owner of the project can change it under Settings, Members.";
    case "unauthorized": return "Log in again.";
    case "too_many_requests": return "Wait a little, then try again.";
    case "internal_error": return "Try again. If it stays, give the operator the request id: the log has the cause under it.";
    case "validation_error": return error.details.valid ? `What fits: ${[error.details.valid].flat().map((one) => one?.name ?? one?.id ?? one).slice(0, 20).join(", ")}.` : "";
    default: return "";
  }
}

/**
 * A fault, if there is one: what it is, what to do, and the id that the log has it under.
 * @param {{error: any, retry?: () => void}} props
 */
export function Fault({ error, retry }) {
  if (!error) return null;
  const todo = cure(error);
  return html`<div class="fault" role="alert" data-testid="fault" data-code=${error?.code ?? "page"}>
    <div><strong>${error?.message ?? String(error)}</strong></div>
    ${todo ? html`<div>${todo}</div>` : null}
    ${error?.requestId ? html`<div class="muted small">Request <code>${error.requestId}</code></div>` : null}
    ${retry ? html`<button onClick=${retry}>Try again</button>` : null}
  </div>`;
}

/**
 * Nothing there, and what to do about it.
 * @param {{title: string, children?: any}} props
 */
export function Empty({ title, children }) {
  return html`<div class="empty" data-testid="empty"><strong>${title}</strong>${children ? html`<div>${children}</div>` : null}</div>`;
}

/**
 * Runs something that changes the server: `busy` while it runs, its fault for <Fault>. What is asked for again while it
 * runs (a second click, Enter held down) is not done again.
 * @template {any[]} A
 * @param {(...given: A) => Promise<any>} act
 * @returns {{run: (...given: A) => Promise<any>, busy: boolean, error: any, clear: () => void}}
 */
export function useAction(act) {
  const [state, setState] = useState(/** @type {{busy: boolean, error: any}} */ ({ busy: false, error: null }));
  const current = useRef(act);
  current.current = act;
  const running = useRef(false);
  const run = useCallback(async (/** @type {A} */ ...given) => {
    if (running.current) return undefined;
    running.current = true;
    setState({ busy: true, error: null });
    try {
      const answer = await current.current(...given);
      setState({ busy: false, error: null });
      return answer;
    } catch (error) {
      setState({ busy: false, error });
      return undefined;
    } finally {
      running.current = false;
    }
  }, []);
  return { ...state, run, clear: () => setState({ busy: false, error: null }) };
}

/** A list in pages: the first one, and what was asked for behind it. @param {string} to @param {any} query @param {string} name of the list in the answers @returns {any} */
export function usePages(to, query, name) {
  const asked = JSON.stringify(query);
  const first = useLoad((signal) => get(to, { ...query, limit: 100 }, { signal }), [to, asked]);
  const of = `${to} ${asked} ${first.at}`;
  const [behind, setBehind] = useState(/** @type {any} */ ({}));
  const { rows, cursor } = behind.of === of ? behind : { rows: [], cursor: first.data?.next_cursor };
  const next = useAction(async () => {
    const found = await get(to, { ...query, limit: 500, cursor });
    setBehind({ of, rows: [...rows, ...found[name]], cursor: found.next_cursor });
  });
  return { ...first, name, rows, cursor, next };
}

/** @param {{of: any, what: string, empty: any, children?: any}} props `empty`: what stands in the place of none */
export const Pages = ({ of, what, empty, children }) => html`<${Loaded} of=${of} what=${what}>${(page) => {
  const rows = [...page[of.name], ...of.rows];
  return rows.length === 0 ? empty : html`${children(rows)}
    <p class="muted">${number(rows.length)} ${what} shown${of.cursor ? html` · <button class="small" disabled=${of.next.busy} onClick=${of.next.run} data-testid="more">Show more</button>` : ", all of them"}</p><${Fault} error=${of.next.error} />`;
}}<//>`;
