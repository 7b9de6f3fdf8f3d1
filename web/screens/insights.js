// Insights: a question, and its answer as picture and table. The address holds the whole of it.
import { go, Head, html, Link, setQuery, useCallback, useEffect, useShortcut, useState } from "../lib/page.js";
import { About, Answer, useAnswer } from "../insights/answer.js";
import { Form, When } from "../insights/forms.js";
import { PeoplePanel } from "../insights/people.js";
import { address, carried, fromQuery, isKind, sendable } from "../insights/question.js";
import { Share } from "../insights/share.js";
import { KINDS } from "../insights/words.js";

/** The number whose people are shown, as the address has it. @param {Kind} kind @param {any} sent @param {string | null} text */
function drilled(kind, sent, text) {
  if (!text) return null;
  try {
    const { title, ...body } = JSON.parse(text);
    return { path: `/api/query/${kind}/people`, body: { [kind]: sent, ...body }, title: String(title) };
  } catch {
    return null;
  }
}

/** @param {InsightsProps} props */
export default function Insights({ parts, query }) {
  const [first = ""] = parts;
  const kind = isKind(first) ? first : "trends";
  useEffect(() => {
    if (first !== kind) go(address(kind, fromQuery(kind, query).question), { replace: true });
  }, [first, kind]);
  return html`<${Insight} key=${kind} kind=${kind} query=${query} />`;
}

/** @param {{kind: Kind, query: URLSearchParams}} props */
function Insight({ kind, query }) {
  const { question, broken } = fromQuery(kind, query);
  const sent = sendable(question);
  const key = JSON.stringify(sent);
  const [anew, setAnew] = useState({ key, count: 0 });
  const load = useAnswer(kind, question, anew.key === key ? anew.count : 0);
  const again = useCallback(() => setAnew((before) => ({ key, count: (before.key === key ? before.count : 0) + 1 })), [key]);
  useShortcut("r", "Ask the question anew", again);
  const change = (/** @type {any} */ changes) => go(address(kind, { ...question, ...changes }));
  const people = drilled(kind, sent, query.get("people"));
  /** @param {People} asked */
  const show = ({ body, title }) => {
    const { [kind]: _, ...rest } = body;
    setQuery({ people: JSON.stringify({ title, ...rest }) }, { push: true });
  };
  return html`
    <${Head} title="Insights" about=${KINDS.find((one) => one.kind === kind)?.what}>
      <button onClick=${again} disabled=${load.loading} data-testid="refresh" title="Ask anew, past what is remembered (r)">Refresh</button>
      <${Share} kind=${kind} question=${sent} />
    <//>
    <nav class="tabs" aria-label="Kinds of questions">${KINDS.map(
      (one) => html`<${Link} key=${one.kind} href=${address(one.kind, one.kind === kind ? question : carried(kind, question, one.kind))} aria-current=${one.kind === kind ? "page" : undefined} data-testid=${`kind-${one.kind}`}>${one.name}<//>`,
    )}</nav>
    ${broken && html`<div class="note warning" role="alert" data-testid="broken">The question in this address cannot be read: it may have been cut. What stands below is a new one.</div>`}
    <${When} kind=${kind} question=${question} onChange=${change} />
    <div class="insight">
      <${Form} kind=${kind} question=${question} onChange=${change} />
      <section class="card" aria-label="Answer" aria-live="polite">
        <${Answer} kind=${kind} load=${load} onPeople=${show} />
        ${load.data?.answer && !load.open && html`<${About} kind=${kind} sent=${load.data.sent} answer=${load.data.answer} at=${load.at} />`}
      </section>
    </div>
    ${people && html`<${PeoplePanel} asked=${people} onClose=${() => setQuery({ people: null }, { push: true })} />`}`;
}
