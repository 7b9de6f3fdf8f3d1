// Log in, or make an account with an invitation. What was open before comes up again afterwards: the address stays.
import { Fault, html, place, session, setQuery, useAction, useEffect, useRef, useState } from "../lib/page.js";

export default function Login() {
  const invitation = place.value.query.get("invitation") ?? "";
  const [making, setMaking] = useState(invitation !== "");
  const first = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => first.current?.focus(), [making]);
  useEffect(() => {
    document.title = "Log in · FlexFlow";
  }, []);
  const enter = useAction(async (form) => {
    const text = (/** @type {string} */ name) => String(form.get(name) ?? "");
    if (making) await session.register({ email: text("email"), password: text("password"), name: text("name") || undefined, invitation: text("invitation") || undefined }).then(() => setQuery({ invitation: null }));
    else await session.login(text("email"), text("password"));
  });
  const submit = (/** @type {any} */ event) => {
    event.preventDefault();
    void enter.run(new FormData(event.currentTarget));
  };
  const field = (/** @type {string} */ name, /** @type {string} */ words, more = {}) => html`<label class="field">
    <span class="label">${words}</span><input name=${name} data-testid=${name} ...${more} /></label>`;
  return html`<section class="card" data-testid="login">
    <header><h1>${making ? "Make an account" : "Log in to FlexFlow"}</h1></header>
    <form class="form" onSubmit=${submit}>
      <${Fault} error=${enter.error} />
      ${field("email", "Email", { type: "email", autocomplete: "username", required: true, ref: first })}
      ${making ? field("name", "Your name", { type: "text", autocomplete: "name" }) : null}
      ${field("password", "Password", { type: "password", autocomplete: making ? "new-password" : "current-password", required: true })}
      ${making ? field("invitation", "Invitation", { type: "text", autocomplete: "off", value: invitation }) : null}
      <button class="primary" disabled=${enter.busy} data-testid="enter">${making ? "Make the account" : "Log in"}</button>
      <button type="button" class="quiet" onClick=${() => { enter.clear(); setMaking(!making); }}>${making ? "I have an account" : "I was invited"}</button>
    </form>
    <p class="muted small">The first start of FlexFlow printed to its terminal a link that logs in once, and an administrator's email and password, which it wrote to
      <code>first-run.json</code> in its data directory. <code>flexflow users create</code> makes another account.</p>
  </section>`;
}
