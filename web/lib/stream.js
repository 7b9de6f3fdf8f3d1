// Events as they arrive, for as long as a component looks: opened again when it ends, counted when it drops.
import { ApiError, follow } from "./api.js";
import { session } from "./session.js";
import { useEffect, useRef, useState } from "./ui.js";

/** An event, whichever row it came by. @param {any} event */
export const eventKey = (event) => `${event.event_id} ${event.event} ${event.distinct_id}`;

/**
 * @param {Record<string, any>} query the filters
 * @param {{paused?: boolean, keep?: number, onOpen?: (signal: AbortSignal) => Promise<any[]>}} [how]
 *   `keep`: how many are kept; `onOpen`: what was there before, asked for once the stream is open so that nothing falls
 *   in between
 * @returns {Stream}
 */
export function useStream(query, how = {}) {
  const { paused = false, keep = 500 } = how;
  const { project, environment } = session.scope.value;
  const [state, setState] = useState(/** @type {any} */ ({ events: [], arrived: 0, dropped: 0, state: "opening", error: null }));
  const [turn, setTurn] = useState(0);
  const before = useRef(how.onOpen);
  before.current = how.onOpen;
  const asked = JSON.stringify(query);
  useEffect(() => setState({ events: [], arrived: 0, dropped: 0, state: "opening", error: null }), [asked, project, environment, turn]);
  useEffect(() => {
    if (paused) {
      setState((/** @type {any} */ now) => ({ ...now, state: "paused" }));
      return undefined;
    }
    const abort = new AbortController();
    /** @type {any[]} */
    let waiting = [];
    let counted = 0;
    let dropped = 0;
    let frame = 0;
    // Whatever came in the meantime is drawn at once: 100 events a second are 4 drawings a second.
    const draw = () => {
      frame = 0;
      const [fresh, arrived, lost] = [waiting, counted, dropped];
      [waiting, counted, dropped] = [[], 0, 0];
      setState((/** @type {any} */ now) => ({ ...now, events: merged(fresh, now.events, keep), arrived: now.arrived + arrived, dropped: now.dropped + lost }));
    };
    const soon = () => {
      frame ||= setTimeout(draw, 250);
    };
    const each = (/** @type {string} */ kind, /** @type {any} */ data) => {
      if (kind === "event") {
        waiting.unshift(data);
        counted += 1;
        soon();
      } else if (kind === "dropped") {
        dropped += data.dropped;
        soon();
      } else if (kind === "open") {
        setState((/** @type {any} */ now) => ({ ...now, state: "open", error: null }));
        before.current?.(abort.signal).then((old) => {
          if (!abort.signal.aborted) setState((/** @type {any} */ now) => ({ ...now, events: merged(now.events, old, keep) }));
        }, () => null);
      } else if (kind === "fault") {
        setState((/** @type {any} */ now) => ({ ...now, state: "fault", error: new ApiError({ status: 503, ...data }) }));
      } else if (kind === "heartbeat") {
        setState((/** @type {any} */ now) => (now.state === "open" ? now : { ...now, state: "open", error: null }));
      }
    };
    void run(abort.signal, JSON.parse(asked), each, (error) => setState((/** @type {any} */ now) => ({ ...now, state: error ? "fault" : "opening", error })));
    return () => {
      abort.abort();
      clearTimeout(frame);
      if (frame) draw();
    };
  }, [asked, project, environment, paused, turn]);
  return { ...state, clear: () => setTurn((turn) => turn + 1) };
}

/**
 * Follows, and follows again: at once when the server ended it, later after a fault.
 * @param {AbortSignal} signal
 * @param {Record<string, any>} query
 * @param {(kind: string, data: any) => void} each
 * @param {(error: any) => void} broke
 */
async function run(signal, query, each, broke) {
  let wait = 1000;
  while (!signal.aborted) {
    try {
      await follow("/api/query/events/live", { query, signal }, (kind, data) => {
        wait = 1000;
        each(kind, data);
      });
      if (!signal.aborted) broke(null);
    } catch (error) {
      if (signal.aborted) return;
      broke(error);
      // A question that is wrong stays wrong.
      if (error instanceof ApiError && [400, 401, 403, 404].includes(error.status)) return;
    }
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 2, 15_000);
  }
}

/** @param {any[]} fresh @param {any[]} old @param {number} keep */
function merged(fresh, old, keep) {
  const known = new Set();
  const all = [];
  for (const one of [...fresh, ...old]) {
    const key = eventKey(one);
    if (known.has(key)) continue;
    known.add(key);
    all.push(one);
    if (all.length === keep) break;
  }
  return all;
}
