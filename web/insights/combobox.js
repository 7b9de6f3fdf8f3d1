// A text field that suggests: arrows and Enter choose, Escape closes, any other text may be written, too.
import { html, short, useEffect, useId, useRef, useState } from "../lib/page.js";

const SHOWN_MAX = 100;

/**
 * The suggestions while the field is open, asked anew when the text changes and the source wants that.
 * @param {boolean} open @param {string} text @param {(text: string) => Promise<Suggestion[]>} source @param {boolean} searches
 */
function useSuggestions(open, text, source, searches) {
  const [found, setFound] = useState(/** @type {{list: Suggestion[], state: "loading" | "ready" | "failed"}} */ ({ list: [], state: "loading" }));
  const latest = useRef(source);
  latest.current = source;
  const asked = searches ? text : "";
  useEffect(() => {
    if (!open) return;
    let current = true;
    const ask = () =>
      latest.current(asked).then(
        (list) => current && setFound({ list, state: "ready" }),
        () => current && setFound({ list: [], state: "failed" }),
      );
    const timer = setTimeout(ask, asked ? 200 : 0);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [open, asked]);
  return found;
}

/**
 * @param {object} props
 * @param {string} props.label what it is, for screen readers
 * @param {string} props.value
 * @param {(text: string) => Promise<Suggestion[]>} props.source
 * @param {(value: string) => void} props.onChange
 * @param {string} [props.placeholder]
 * @param {string} [props.shown] how the value is called, if not by itself
 * @param {boolean} [props.searches] the source is asked for each text
 * @param {boolean} [props.clears] the field is empty after a choice: it adds to a list
 * @param {Suggestion} [props.first] stands before all others
 * @param {string} [props.testid]
 */
export function Combobox({ label, value, source, onChange, placeholder, shown, searches = false, clears = false, first, testid }) {
  const [open, setOpen] = useState(false);
  const [text, setText] = useState(/** @type {string | null} */ (null));
  const [active, setActive] = useState(-1);
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const listId = useId();
  const typed = text ?? "";
  const { list, state } = useSuggestions(open, typed, source, searches);
  const all = first ? [first, ...list] : list;
  const wanted = typed.toLowerCase();
  const matching = all.filter((one) => (one.label ?? one.value).toLowerCase().includes(wanted) || one === first).slice(0, SHOWN_MAX);

  const close = () => {
    setOpen(false);
    setText(null);
    setActive(-1);
  };
  /** @param {string} next */
  const choose = (next) => {
    close();
    if (next !== value || clears) onChange(next);
  };
  /** What was typed counts as chosen: a name that has no event yet may be asked for, too. */
  const settle = () => {
    if (text === null) return close();
    const exact = all.find((one) => (one.label ?? one.value) === text);
    if (text === "" && clears) return close();
    choose(exact ? exact.value : text);
  };
  /** @param {KeyboardEvent} event */
  const key = (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) return setOpen(true);
      const step = event.key === "ArrowDown" ? 1 : -1;
      const count = Math.max(matching.length, 1);
      setActive((now) => (now + step + count) % count);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const one = open ? matching[active] : undefined;
      if (one) choose(one.value);
      else settle();
    } else if (event.key === "Escape" && open) {
      event.stopPropagation();
      close();
    }
  };
  useEffect(() => {
    if (active >= 0) box.current?.querySelector(`[data-index="${active}"]`)?.scrollIntoView({ block: "nearest" });
  }, [active]);

  const current = shown ?? (value === "" && first ? (first.label ?? "") : value);
  return html`<span class="combobox" ref=${box}>
    <input
      type="text" role="combobox" autocomplete="off" spellcheck=${false} aria-label=${label} aria-expanded=${open} aria-controls=${listId}
      aria-autocomplete="list" aria-activedescendant=${open && active >= 0 ? `${listId}-${active}` : undefined} data-testid=${testid}
      placeholder=${open ? current || placeholder : placeholder} value=${open ? typed : current}
      onFocus=${() => setOpen(true)} onClick=${() => setOpen(true)} onBlur=${settle} onKeyDown=${key}
      onInput=${(event) => {
        setText(event.currentTarget.value);
        setActive(-1);
        setOpen(true);
      }}
    />
    ${open &&
    html`<ul class="options" role="listbox" id=${listId} aria-label=${label}>
      ${matching.map(
        (one, index) => html`<li
          key=${one.value} id="${listId}-${index}" data-index=${index} role="option" aria-selected=${index === active}
          class=${index === active ? "active" : ""} title=${one.label ?? one.value}
          onMouseDown=${(event) => {
            event.preventDefault();
            choose(one.value);
          }}
        >
          <bdi class="ellipsis">${one.label ?? one.value}</bdi>
          ${one.note !== undefined && html`<span class="muted">${short(one.note)}</span>`}
        </li>`,
      )}
      ${matching.length === 0 && html`<li class="muted hint" role="option" aria-disabled="true" aria-selected="false">${hint(state, typed)}</li>`}
    </ul>`}
  </span>`;
}

/** @param {string} state @param {string} typed */
function hint(state, typed) {
  if (state === "loading") return "Looking…";
  if (state === "failed") return "The suggestions did not come; write the name yourself.";
  return typed ? "Not seen lately. Enter takes it as it is." : "Nothing seen in the last 30 days.";
}

/**
 * Several values: each can be taken away, and more added.
 * @param {ChipsProps} props
 */
export function Chips({ label, values, source, onChange, nameOf, searches, placeholder, testid }) {
  return html`<span class="chips">
    ${values.map(
      (value, index) => html`<span class="chip" key=${`${index}-${value}`}>
        <bdi class="ellipsis" title=${value}>${nameOf ? nameOf(value) : value}</bdi>
        <button type="button" class="quiet icon" aria-label=${`Take away ${nameOf ? nameOf(value) : value}`} onClick=${() => onChange(values.filter((_, other) => other !== index))}>×</button>
      </span>`,
    )}
    <${Combobox} label=${label} testid=${testid} value="" clears source=${source} searches=${searches ?? false} placeholder=${placeholder ?? (values.length > 0 ? "or…" : "value")}
      onChange=${(value) => value !== "" && !values.includes(value) && onChange([...values, value])} />
  </span>`;
}
