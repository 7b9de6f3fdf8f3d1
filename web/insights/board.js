// One dashboard: its tiles in their order and sizes, how old each answer is, and what can be done with it.
import { Confirm, del, Empty, Fault, FormDialog, go, Head, html, Link, Named, patch, post, textOf, toast, useAction, useEffect, useRef, useState } from "../lib/page.js";
import { moved, replaced, without } from "./fields.js";
import { Tile } from "./tile.js";

/** Asked again by itself in full screen, in milliseconds. */
const EVERY = 60_000;

/** Names of tiles that stay theirs when the order changes; equal ones are counted. @param {Saved[]} tiles */
function keysOf(tiles) {
  const seen = new Map();
  return tiles.map(({ kind, question }) => {
    const content = JSON.stringify([kind, question]);
    const count = seen.get(content) ?? 0;
    seen.set(content, count + 1);
    return `${count} ${content}`;
  });
}

/** Seconds that pass, so that ages stay true. */
function useNow() {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 10_000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

/**
 * Changes stand at once, go to the server one after the other, and are taken back when it refuses one.
 * @param {string} at @param {any} saved @param {(dashboard: any) => void} show
 */
function useChanges(at, saved, show) {
  const [error, setError] = useState(/** @type {any} */ (null));
  /** What the server has. */
  const known = useRef(saved);
  const waiting = useRef(0);
  const turn = useRef(Promise.resolve());
  useEffect(() => {
    known.current = saved;
  }, [saved]);
  const send = async (/** @type {any} */ changes) => {
    // One was refused before this one's turn came, and with it what this one stands on.
    if (waiting.current === 0) return;
    try {
      known.current = await patch(at, { ...changes, revision: known.current.revision });
      if (--waiting.current === 0) show(known.current);
    } catch (refused) {
      waiting.current = 0;
      show(known.current);
      setError(refused);
    }
  };
  const run = (/** @type {any} */ changes) => {
    setError(null);
    show((/** @type {any} */ now) => ({ ...now, ...changes }));
    waiting.current++;
    turn.current = turn.current.then(() => send(changes));
    return turn.current;
  };
  return { run, error, clear: () => setError(null) };
}

/** @param {{saved: any, reload: () => void}} props */
export function Board({ saved, reload }) {
  const [dashboard, setDashboard] = useState(saved);
  const [told, setTold] = useState(/** @type {Map<string, Told>} */ (new Map()));
  const [dialog, setDialog] = useState("");
  const [dragged, setDragged] = useState(/** @type {number | null} */ (null));
  const [over, setOver] = useState(/** @type {number | null} */ (null));
  const whole = useRef(/** @type {HTMLElement | null} */ (null));
  const now = useNow();
  const at = `/api/dashboards/${encodeURIComponent(dashboard.id)}`;
  useEffect(() => setDashboard(saved), [saved]);

  const change = useChanges(at, saved, setDashboard);
  const refresh = useAction(async () => {
    const { tiles } = await post(`${at}/refresh`);
    const when = Date.now();
    const key = (/** @type {number} */ index) => JSON.stringify([dashboard.tiles[index]?.kind, dashboard.tiles[index]?.question]);
    setTold(new Map(tiles.map((/** @type {any} */ tile, /** @type {number} */ index) => [key(index), { answer: tile.answer, error: tile.error, at: when }])));
  });
  const remove = useAction(async () => {
    await del(at);
    toast(`${dashboard.name} is deleted`);
    go("/dashboards");
  });
  const { run } = refresh;
  useEffect(() => {
    const timer = setInterval(() => document.fullscreenElement && void run(), EVERY);
    return () => clearInterval(timer);
  }, [run]);
  const tiles = /** @type {Saved[]} */ (dashboard.tiles);
  const keys = keysOf(tiles);
  const set = (/** @type {Saved[]} */ next) => void change.run({ tiles: next });
  const drop = (/** @type {number} */ index) => {
    if (dragged !== null && dragged !== index) set(moved(tiles, dragged, index - dragged));
    setDragged(null);
    setOver(null);
  };
  const stale = change.error?.status === 409;
  return html`<section class="whole" ref=${whole} data-testid="dashboard">
    <${Head} title=${html`<bdi>${dashboard.name}</bdi>`} about=${dashboard.description ? html`<bdi>${dashboard.description}</bdi>` : null}>
      <${Link} href="/dashboards">All dashboards<//>
      <button data-testid="refresh-all" disabled=${refresh.busy || tiles.length === 0} onClick=${refresh.run}>${refresh.busy ? "Refreshing…" : "Refresh"}</button>
      <button data-testid="full-screen" onClick=${() => (document.fullscreenElement ? document.exitFullscreen() : whole.current?.requestFullscreen())}>Full screen</button>
      <button data-testid="edit" onClick=${() => setDialog("edit")}>Rename</button>
      <button class="danger" data-testid="delete" onClick=${() => setDialog("delete")}>Delete</button>
    <//>
    <${Fault} error=${change.error} retry=${stale ? () => { change.clear(); reload(); } : undefined} />
    <${Fault} error=${refresh.error} retry=${refresh.run} />
    ${tiles.length === 0 && html`<${Empty} title="Nothing on it yet">Ask something under <${Link} href="/insights">Insights<//> and choose “Save to dashboard”.<//>`}
    <div class="board">${tiles.map((tile, index) => html`<${Tile}
      key=${keys[index]} tile=${tile} index=${index} count=${tiles.length} now=${now} dropping=${over === index && dragged !== index}
      told=${told.get(JSON.stringify([tile.kind, tile.question]))}
      onChange=${(next) => set(replaced(tiles, index, next))} onRemove=${() => set(without(tiles, index))} onMove=${(by) => set(moved(tiles, index, by))}
      onDrag=${(what) => {
        if (what === "start") setDragged(index);
        else if (what === "over") setOver(index);
        else if (what === "drop") drop(index);
        else { setDragged(null); setOver(null); }
      }} />`)}</div>
    ${dialog === "edit" && html`<${Editing} title="Rename the dashboard" of=${dashboard} onClose=${() => setDialog("")} onSave=${async (next) => { await change.run(next); setDialog(""); }} />`}
    ${dialog === "delete" && html`<${Confirm} title="Delete this dashboard?" action="Delete it" busy=${remove.busy} onYes=${remove.run} onClose=${() => setDialog("")}>
      <p><bdi>${dashboard.name}</bdi> and its ${tiles.length} answers go away for everybody in the project. Events stay.</p>
      <${Fault} error=${remove.error} />
    <//>`}
  </section>`;
}

/**
 * Name and description, of a dashboard or a tile.
 * @param {EditingProps} props
 */
export function Editing({ title, of, onSave, onClose }) {
  const save = (/** @type {FormData} */ form) => onSave({ name: textOf(form, "name"), description: textOf(form, "description") });
  return html`<${FormDialog} title=${title} action="Save" save="save-edit" onSave=${save} onClose=${onClose} testid="edit-dialog"><${Named} of=${of} /><//>`;
}
