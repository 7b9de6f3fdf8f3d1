// Small parts that every screen uses.
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "./ui.js";
import { Fault, useAction } from "./load.js";
import { toast } from "./toast.js";
import { Link } from "./router.js";

/** The head of a screen. @param {HeadProps} props `children`: its actions */
export function Head({ title, children, about }) {
  return html`<header class="head">
    <div><h1 tabindex="-1">${title}</h1>${about ? html`<p class="muted">${about}</p>` : null}</div>
    <div class="actions">${children}</div>
  </header>`;
}

/** A framed part of a screen. @param {any} props */
export function Card({ title, actions, children, ...rest }) {
  return html`<section class="card" ...${rest}>
    ${title || actions ? html`<header><h2>${title}</h2><div class="actions">${actions}</div></header>` : null}
    ${children}
  </section>`;
}

/** A labelled field around one control. @param {FieldProps} props */
export function Field({ label, hint, children, inline }) {
  return html`<label class=${inline ? "field inline" : "field"}>
    <span class="label">${label}</span>${children}${hint ? html`<span class="hint">${hint}</span>` : null}
  </label>`;
}

/**
 * A choice. `options` are texts or [value, words].
 * @param {any} props
 */
export function Select({ value, options, onChange, ...rest }) {
  return html`<select ...${rest} value=${value} onChange=${(event) => onChange(event.currentTarget.value)}>
    ${options.map((/** @type {any} */ one) => {
      const [key, words] = Array.isArray(one) ? one : [one, one];
      return html`<option key=${key} value=${key} selected=${key === value}>${words}</option>`;
    })}
  </select>`;
}

/** A text that is taken over a moment after the last key, or at once on Enter. @param {any} props */
export function Input({ value, onChange, wait = 300, ...rest }) {
  const [text, setText] = useState(value ?? "");
  const timer = useRef(/** @type {any} */ (null));
  const taken = useRef(value);
  useEffect(() => {
    if (value !== taken.current) setText(value ?? "");
    taken.current = value;
  }, [value]);
  useLayoutEffect(() => () => {
    clearTimeout(timer.current);
    timer.current = -1;
  }, []);
  const take = (/** @type {string} */ next) => {
    if (timer.current === -1) return;
    clearTimeout(timer.current);
    taken.current = next;
    if (next !== value) onChange(next);
  };
  return html`<input
    type="text" autocomplete="off" spellcheck=${false} ...${rest} value=${text}
    onInput=${(event) => {
      const next = event.currentTarget.value;
      setText(next);
      clearTimeout(timer.current);
      timer.current = setTimeout(() => take(next), wait);
    }}
    onBlur=${() => take(text)}
    onKeyDown=${(event) => event.key === "Enter" && take(event.currentTarget.value)} />`;
}

/** A state in a word; the mark before it tells it without its colour. @param {BadgeProps} props */
export function Badge({ kind, children, title }) {
  const mark = { good: "●", warning: "▲", bad: "■", plain: "" }[kind];
  return html`<span class="badge ${kind}" title=${title}>${mark ? html`<span aria-hidden="true">${mark} </span>` : null}${children}</span>`;
}

/** @param {string} text @param {string} [what] */
export async function copy(text, what = "Copied") {
  try {
    await navigator.clipboard.writeText(text);
    toast(what);
  } catch {
    toast("The browser does not let this page copy: select the text and copy it by hand.", { kind: "warning" });
  }
}

/** A button that copies. @param {CopyProps} props */
export function Copy({ text, label = "Copy", what }) {
  return html`<button class="small" onClick=${() => copy(text, what)}>${label}</button>`;
}

/** Something that is shown this once. @param {SecretProps} props */
export function Secret({ text, onClose, children, testid = "secret" }) {
  return html`<div class="note good"><p><strong>${children}</strong></p><div class="row"><code class="secret" data-testid=${testid}>${text}</code><${Copy} text=${text} what="Copied" /><button onClick=${onClose}>I have it</button></div></div>`;
}

/** Longer text is shown cut, and copied whole. */
const SHOWN_MAX = 20_000;

/** Text as it is, to be copied. @param {{text: string, label?: string}} props */
export function Code({ text, label }) {
  return html`<div class="code">
    <${Copy} text=${text} />
    <pre tabindex="0" aria-label=${label ?? "Code"}><code>${text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text}</code></pre>
    ${text.length > SHOWN_MAX ? html`<p class="muted small cut">The first ${String(SHOWN_MAX)} of ${String(text.length)} characters; Copy has all of them.</p>` : null}
  </div>`;
}

/** @param {TabsProps} props [key, words, href] */
export function Tabs({ items, current, label }) {
  return html`<nav class="tabs" aria-label=${label}>
    ${items.map(([key, words, href]) => html`<${Link} key=${key} href=${href} aria-current=${key === current ? "page" : undefined}>${words}<//>`)}
  </nav>`;
}

/**
 * A dialog over the page: closed by Escape, its button, or `onClose`; the focus goes back to where it was.
 * @param {DialogProps} props
 */
export function Dialog({ title, onClose, children, wide, testid }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const id = useId();
  useLayoutEffect(() => {
    const element = dialog.current;
    const before = document.activeElement;
    if (element && !element.open) element.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return html`<dialog ref=${dialog} class=${wide ? "wide" : ""} aria-labelledby=${id} data-testid=${testid ?? "dialog"}
    onCancel=${(event) => { event.preventDefault(); onClose(); }}>
    <header><h2 id=${id}>${title}</h2><button class="quiet icon" aria-label="Close" onClick=${onClose}>×</button></header>
    <div class="body">${children}</div>
  </dialog>`;
}

/**
 * A dialog that asks for something: `onSave` gets the form, `save` is the button's test id.
 * @param {FormDialogProps} props
 */
export function FormDialog({ title, action, save, onSave, onClose, children, wide, testid }) {
  const { run, busy, error } = useAction(onSave);
  return html`<${Dialog} title=${title} onClose=${onClose} wide=${wide} testid=${testid}>
    <form class="form" onSubmit=${(event) => { event.preventDefault(); void run(new FormData(event.currentTarget)); }}>
      ${children}
      <${Fault} error=${error} />
      <div class="buttons"><button class="primary" disabled=${busy} data-testid=${save}>${action}</button></div>
    </form>
  <//>`;
}

/** A field of a form, as it was filled in. @param {FormData} form @param {string} name */
export const textOf = (form, name) => String(form.get(name) ?? "").trim();

/** A labelled text of a form. @param {any} props `name`: its test id, too */
export function TextField({ label, hint, value, name, rows, ...rest }) {
  const given = { name, maxlength: 200, "data-testid": name, ...rest };
  return html`<${Field} label=${label} hint=${hint}>${rows ? html`<textarea rows=${rows} ...${given} defaultValue=${value ?? ""}></textarea>` : html`<input type="text" ...${given} defaultValue=${value ?? ""} />`}<//>`;
}

/** Name and description. @param {{of?: any}} props */
export const Named = ({ of }) => html`<${TextField} name="name" label="Name" required value=${of?.name} /><${TextField} name="description" label="Description" rows="3" maxlength="4000" value=${of?.description} />`;

/**
 * Asks before something that cannot be undone.
 * @param {ConfirmProps} props
 */
export function Confirm({ title, children, action, onYes, onClose, busy, danger = true }) {
  return html`<${Dialog} title=${title} onClose=${onClose}>
    ${children}
    <div class="buttons">
      <button onClick=${onClose}>Keep it</button>
      <button class=${danger ? "danger" : "primary"} disabled=${busy} onClick=${onYes} data-testid="confirm">${action}</button>
    </div>
  <//>`;
}

/** Saves text as a file. @param {string} name @param {string} text @param {string} [type] */
export function save(name, text, type = "text/csv;charset=utf-8") {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
