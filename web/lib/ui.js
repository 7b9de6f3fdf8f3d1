// The one door to the libraries of the page: everything else imports from here.
import { h, render, Fragment } from "../vendor/preact/preact.js";
import htm from "../vendor/htm/htm.js";

export { h, render, Fragment };
export { useState, useEffect, useLayoutEffect, useMemo, useCallback, useRef, useId } from "../vendor/preact/hooks.js";
export { signal, computed, effect, batch, useSignal, useComputed } from "../vendor/signals/signals.js";

/** Markup as a tagged template; whatever is put in becomes a text node or an attribute, never markup. */
export const html = htm.bind(h);
