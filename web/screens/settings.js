// Settings: /settings (you), /settings/project, /settings/members, /settings/keys, /settings/audit, /settings/people.
import { Badge, Card, Confirm, Copy, del, Dialog, Empty, Fault, Field, get, Head, html, Loaded, number, patch, post, projectZone, put, request, Secret, Select, session, Table, Tabs, Time, toast, useAction, useGet, useLoad, useState, zones } from "../lib/page.js";
import { Habits } from "../lib/shell.js";
import { Filters } from "../insights/filters.js";
import { saidFilters } from "../insights/question.js";

const ROLES = [["owner", "Owner: everything"], ["editor", "Editor: asks and sends"], ["viewer", "Viewer: asks"]];

/** @param {{parts: string[]}} props */
export default function Settings({ parts }) {
  const tab = parts[0] ?? "";
  const { project } = session.scope.value;
  const owner = session.role() === "owner";
  const items = /** @type {[string, string, string][]} */ ([
    ["", "You", "/settings"], ["project", "Project", "/settings/project"], ["members", "Members", "/settings/members"],
    ...(owner ? [["keys", "API keys", "/settings/keys"], ["audit", "Who did what", "/settings/audit"]] : []),
    ...(session.user.value?.is_admin ? [["people", "Everybody", "/settings/people"]] : []),
  ]);
  const views = /** @type {Record<string, any>} */ ({ project: Project, members: Members, keys: Keys, audit: Audit, people: People });
  return html`<${Head} title="Settings" />
    <${Tabs} items=${items} current=${tab} label="Settings" />
    <${views[tab] ?? You} key=${`${tab} ${project}`} project=${project} owner=${owner} />`;
}

/** @param {any} event @returns {Record<string, string>} */
function fields(event) {
  event.preventDefault();
  return Object.fromEntries([...new FormData(event.currentTarget)].map(([name, value]) => [name, String(value)]));
}

function You() {
  const user = session.user.value;
  const change = useAction(async (form, element) => {
    await post("/api/auth/password", { current_password: form.current, new_password: form.next }, { unscoped: true, guess: true });
    element.reset();
    toast("The password was changed; every other session of yours ended");
  });
  return html`<div class="grid">
    <${Card} title="You"><dl class="facts"><dt>Name</dt><dd><bdi>${user?.name}</bdi></dd><dt>Email</dt><dd><bdi>${user?.email}</bdi></dd><dt>Administrator</dt><dd>${user?.is_admin ? "yes" : "no"}</dd><dt>In this project</dt><dd>${session.role()}</dd></dl><//>
    <${Card} title="This page"><div class="form">
      <${Habits} />
    </div><//>
    <${Card} title="Password"><form class="form" onSubmit=${(event) => change.run(fields(event), event.currentTarget)}>
      <${Fault} error=${change.error} />
      <input type="text" name="user" autocomplete="username" value=${user?.email} hidden />
      <${Field} label="Now"><input type="password" name="current" autocomplete="current-password" required /><//>
      <${Field} label="New" hint="At least 12 characters."><input type="password" name="next" autocomplete="new-password" required minlength="12" /><//>
      <div><button class="primary" disabled=${change.busy}>Change it</button></div>
    </form><//>
  </div>`;
}

/** A form of one name. @param {NameFormProps} props */
function NameForm({ label, action, value = "", onSave, testid }) {
  const save = useAction(async (form, element) => {
    await onSave(form.name ?? "");
    if (!value) element.reset();
  });
  return html`<form class="form" data-testid=${testid} onSubmit=${(event) => save.run(fields(event), event.currentTarget)}>
    <${Fault} error=${save.error} />
    <div class="row"><div class="grow"><${Field} label=${label}><input type="text" name="name" required maxlength="200" defaultValue=${value} /><//></div><button class="primary" disabled=${save.busy}>${action}</button></div>
  </form>`;
}

/** @param {{project: string, owner: boolean}} props */
function Project({ project, owner }) {
  const at = `/api/projects/${encodeURIComponent(project)}`;
  const [gone, setGone] = useState(false);
  const environments = useGet(`${at}/environments`, {}, { unscoped: true });
  const [renaming, setRenaming] = useState(/** @type {any} */ (null));
  const shown = session.projects.value.find((one) => one.id === project);
  const again = async () => {
    environments.reload();
    await session.load();
  };
  const remove = useAction(async () => {
    await del(at, { unscoped: true });
    setGone(false);
    toast(`${shown?.name} was deleted`);
    await session.load();
  });
  const move = useAction(async (time_zone) => {
    await patch(at, { time_zone }, { unscoped: true });
    toast(`Times are shown in ${time_zone} now`);
    await session.load();
  });
  return html`<div class="grid">
    <${Card} title="Project">
      <dl class="facts"><dt>Name</dt><dd><bdi>${shown?.name}</bdi></dd><dt>Id</dt><dd><code>${project}</code> <${Copy} text=${project} /></dd></dl>
      <${Fault} error=${move.error} />
      <div class="spaced"><${Field} label="Time zone" hint="Of its times, and of questions that name none."><${Select} value=${projectZone.value} options=${zones()} disabled=${!owner || move.busy} onChange=${move.run} data-testid="project-zone" /><//></div>
      ${owner ? html`<div class="form spaced"><${NameForm} key=${shown?.name} label="Rename it" action="Rename" testid="rename-project" onSave=${async (name) => { await patch(at, { name }, { unscoped: true }); toast("Renamed"); await session.load(); }} />
        <div><button class="danger" onClick=${() => setGone(true)}>Delete the project…</button></div></div>` : null}
    <//>
    <${Card} title="Environments">
      <${Loaded} of=${environments}>${(found) => html`<${Table} label="Environments" testid="environments" rows=${found.environments} columns=${[
        { key: "name", title: "Name" },
        { key: "id", title: "Id", as: "code" },
        { key: "act", title: "", cell: (one) => owner ? html`<button class="small" onClick=${() => setRenaming(one)}>Rename</button>` : null },
      ]} />`}<//>
      ${owner ? html`<div class="spaced"><${NameForm} label="Another environment" action="Make it" testid="new-environment" onSave=${async (name) => { await post(`${at}/environments`, { name }, { unscoped: true }); toast(`Environment ${name} was made`); await again(); }} /></div>` : null}
    <//>
    ${session.user.value?.is_admin ? html`<${Card} title="Another project"><p>With environments production and development of its own.</p><${NameForm} label="Name" action="Make it" testid="new-project" onSave=${async (name) => {
      const made = await post("/api/projects", { name }, { unscoped: true });
      await session.load();
      session.choose({ project: made.id, environment: made.environments[0].id });
      toast(`Project ${name} was made; you are in it now`);
    }} /><//>` : null}
    <${TestAccounts} key=${session.scope.value.environment} owner=${owner} />
  </div>
  ${renaming ? html`<${Dialog} title=${`Rename ${renaming.name}`} onClose=${() => setRenaming(null)}><${NameForm} label="Name" action="Rename" value=${renaming.name} testid="rename-environment" onSave=${async (name) => { await patch(`${at}/environments/${encodeURIComponent(renaming.id)}`, { name }, { unscoped: true }); setRenaming(null); toast("Renamed"); await again(); }} /><//>` : null}
  ${gone ? html`<${Confirm} title="Delete the project?" action="Delete it" busy=${remove.busy} onClose=${() => setGone(false)} onYes=${remove.run}>
    <${Fault} error=${remove.error} />
    <p>It is hidden everywhere, and every key of it stops working at once. Programs that still send to it are refused.</p><//>` : null}`;
}

/** @param {{owner: boolean}} props */
function TestAccounts({ owner }) {
  const kept = useGet("/api/test-accounts");
  const [changed, setChanged] = useState(/** @type {any} */ (null));
  const save = useAction(async () => {
    await put("/api/test-accounts", { filters: saidFilters(changed ?? []) });
    toast("Saved");
    kept.reload();
  });
  return html`<${Card} title="Test accounts"><p>A question that leaves them out counts in ${session.place().environment?.name} only what fits all of this.</p>
    <${Loaded} of=${kept}>${(found) => html`<fieldset class="form" disabled=${!owner}><${Filters} value=${changed ?? found.filters} onChange=${(filters) => setChanged(filters ?? [])} />
      <${Fault} error=${save.error} /><div><button class="primary" disabled=${save.busy} onClick=${save.run} data-testid="save-test-accounts">Save</button></div></fieldset>`}<//><//>`;
}

/** @param {{project: string, owner: boolean}} props */
function Members({ project, owner }) {
  const at = `/api/projects/${encodeURIComponent(project)}`;
  const members = useGet(`${at}/members`, {}, { unscoped: true });
  const [token, setToken] = useState("");
  const change = useAction(async (member, role) => {
    await patch(`${at}/members/${encodeURIComponent(member.user_id)}`, { role }, { unscoped: true });
    toast(`${member.name} is ${role} now`);
    members.reload();
  });
  const remove = useAction(async (member) => {
    await del(`${at}/members/${encodeURIComponent(member.user_id)}`, { unscoped: true });
    toast(`${member.name} is no member any more`);
    members.reload();
  });
  const invitations = useLoad(async (signal) => (owner ? get(`${at}/invitations`, {}, { signal, unscoped: true }) : { invitations: [] }), [project, owner]);
  const add = useAction(async (form, element) => {
    const body = { email: form.email, role: form.role };
    if (form.how === "add") {
      await post(`${at}/members`, body, { unscoped: true });
      toast(`${form.email} is a member now`);
      members.reload();
    } else {
      setToken((await post(`${at}/invitations`, body, { unscoped: true })).invitation);
      invitations.reload();
    }
    element.reset();
  });
  const back = useAction(async (one) => {
    await del(`${at}/invitations/${encodeURIComponent(one.id)}`, { unscoped: true });
    invitations.reload();
  });
  /** @type {Column[]} */
  const columns = [
    { key: "name", title: "Name" },
    { key: "email", title: "Email" },
    { key: "role", title: "Role", cell: (one) => owner ? html`<${Select} aria-label=${`Role of ${one.name}`} value=${one.role} options=${ROLES} onChange=${(role) => change.run(one, role)} />` : one.role },
    { key: "act", title: "", cell: (one) => owner ? html`<button class="small danger" onClick=${() => remove.run(one)}>Remove</button>` : null },
  ];
  const open = (invitations.data?.invitations ?? []).filter((/** @type {any} */ one) => !one.accepted_at && !one.revoked_at);
  return html`${[change, remove, back].map((one, index) => (one.error ? html`<${Fault} key=${index} error=${one.error} />` : null))}
    <${Card} title="Members"><${Loaded} of=${members} what="members">${(found) => found.members.length === 0 ? html`<${Empty} title="No members">Administrators see every project without being a member.<//>` : html`<${Table} label="Members" testid="members" columns=${columns} rows=${found.members} rowKey=${(one) => one.user_id} />`}<//><//>
    ${owner ? html`<${Card} title="Somebody new"><form class="form" data-testid="add-member" onSubmit=${(event) => add.run(fields(event), event.currentTarget)}>
      <${Fault} error=${add.error} />
      <div class="row"><div class="grow"><${Field} label="Email"><input type="email" name="email" required /><//></div>
        <${Field} label="Role"><select name="role">${ROLES.slice().reverse().map(([key, words]) => html`<option key=${key} value=${key}>${words}</option>`)}</select><//>
        <${Field} label="How"><select name="how"><option value="invite">Invite: they make an account</option><option value="add">Add: they have an account</option></select><//>
        <button class="primary" disabled=${add.busy}>Do it</button></div>
    </form>
    ${token ? html`<${Secret} text=${`${location.origin}/?invitation=${token}`} onClose=${() => setToken("")}>Bring them this link; it is shown this once.<//>` : null}
    ${open.length > 0 ? html`<h3 class="spaced">Open invitations</h3><${Table} label="Open invitations" rows=${open} columns=${[
      { key: "email", title: "Email" }, { key: "role", title: "Role" },
      { key: "expires_at", title: "Until", as: "time" },
      { key: "act", title: "", cell: (one) => html`<button class="small" onClick=${() => back.run(one)}>Take back</button>` },
    ]} />` : null}<//>` : null}`;
}

const SCOPES = [["ingest", "send events"], ["query", "ask questions"], ["admin", "manage the project"]];

/** @param {{project: string}} props */
function Keys({ project }) {
  const at = `/api/projects/${encodeURIComponent(project)}/api-keys`;
  const environments = session.projects.value.find((one) => one.id === project)?.environments ?? [];
  const keys = useGet(at, {}, { unscoped: true });
  const [made, setMade] = useState("");
  const [gone, setGone] = useState(/** @type {any} */ (null));
  const [old, setOld] = useState(false);
  const make = useAction(async (element) => {
    const form = new FormData(element);
    const body = /** @type {any} */ ({ name: String(form.get("name") ?? ""), environment_id: form.get("environment"), scopes: form.getAll("scope") });
    if (form.get("expires")) body.expires_at = new Date(`${form.get("expires")}T00:00:00Z`).toISOString();
    setMade((await post(at, body, { unscoped: true })).api_key);
    element.reset();
    keys.reload();
  });
  const revoke = useAction(async () => {
    await del(`${at}/${encodeURIComponent(gone.id)}`, { unscoped: true });
    toast(`${gone.name} works no more`);
    setGone(null);
    keys.reload();
  });
  const state = (/** @type {any} */ one) => one.revoked_at ? html`<${Badge} kind="plain">revoked<//>` : one.expires_at && new Date(one.expires_at) < new Date() ? html`<${Badge} kind="warning">expired<//>` : html`<${Badge} kind="good">good<//>`;
  /** @type {Column[]} */
  const columns = [
    { key: "name", title: "Name" },
    { key: "prefix", title: "Begins", cell: (one) => html`<code>${one.prefix}…</code>` },
    { key: "environment_id", title: "Environment", cell: (one) => environments.find((it) => it.id === one.environment_id)?.name ?? one.environment_id },
    { key: "scopes", title: "May", cell: (one) => one.scopes.join(", ") },
    { key: "last_used_at", title: "Last used", cell: (one) => one.last_used_at ? html`<${Time} at=${one.last_used_at} relative />` : "never" },
    { key: "expires_at", title: "Until", cell: (one) => one.expires_at ? html`<${Time} at=${one.expires_at} />` : "for ever" },
    { key: "state", title: "State", cell: state },
    { key: "act", title: "", cell: (one) => one.revoked_at ? null : html`<button class="small danger" onClick=${() => setGone(one)}>Revoke…</button>` },
  ];
  return html`${made ? html`<${Secret} text=${made} testid="new-key" onClose=${() => setMade("")}>The new key, shown this once:<//>` : null}
    <${Card} title="Make a key"><form class="form" data-testid="make-key" onSubmit=${(event) => { event.preventDefault(); void make.run(event.currentTarget); }}>
      <${Fault} error=${make.error} />
      <div class="row"><div class="grow"><${Field} label="Name"><input type="text" name="name" required maxlength="200" placeholder="What will use it" /><//></div>
        <${Field} label="Environment"><select name="environment">${environments.map((one) => html`<option key=${one.id} value=${one.id}>${one.name}</option>`)}</select><//>
        <${Field} label="Until (optional)"><input type="date" name="expires" /><//></div>
      <fieldset><legend>It may</legend><div class="row">${SCOPES.map(([key, words]) => html`<label key=${key} class="field inline"><input type="checkbox" name="scope" value=${key} defaultChecked=${key === "ingest"} />${words} <code>${key}</code></label>`)}</div></fieldset>
      <div><button class="primary" disabled=${make.busy}>Make a key</button></div>
    </form><//>
    <${Card} title="API keys" actions=${html`<label class="field inline"><input type="checkbox" checked=${old} onChange=${() => setOld(!old)} />show revoked</label>`}>
      <${Loaded} of=${keys} what="keys">${(found) => {
        const rows = found.api_keys.filter((/** @type {any} */ one) => old || !one.revoked_at);
        return rows.length === 0 ? html`<${Empty} title="No keys">Make one above: programs send it as <code>X-API-Key</code>.<//>` : html`<${Table} label="API keys" testid="keys" columns=${columns} rows=${rows} rowKey=${(one) => one.id} />`;
      }}<//><//>
    ${gone ? html`<${Confirm} title=${`Revoke ${gone.name}?`} action="Revoke it" busy=${revoke.busy} onClose=${() => setGone(null)} onYes=${revoke.run}>
      <${Fault} error=${revoke.error} /><p>Programs that use <code>${gone.prefix}…</code> are refused from now on (other processes notice within half a minute). It cannot be taken back.</p><//>` : null}`;
}

/** @param {{project: string}} props */
function Audit({ project }) {
  const at = `/api/projects/${encodeURIComponent(project)}/audit-log`;
  const first = useGet(at, { limit: 100 }, { unscoped: true });
  return html`<${Card} title="Who did what in this project"><${Loaded} of=${first} what="the audit trail">${(found) => found.entries.length === 0 ? html`<${Empty} title="Nothing yet">Changes of keys, members and environments show here.<//>` : html`<${Table} label="Audit trail" testid="audit" rows=${found.entries} rowKey=${(one) => one.id} columns=${[
    { key: "created_at", title: "When", as: "time" },
    { key: "actor_name", title: "Who" },
    { key: "action", title: "What", as: "code" },
    { key: "subject_id", title: "On" },
  ]} />`}<//><//>`;
}

function People() {
  const people = useGet("/api/users", {}, { unscoped: true });
  const [made, setMade] = useState(/** @type {any} */ (null));
  const set = useAction(async (one, what) => {
    const answer = await request(`/api/users/${encodeURIComponent(one.id)}/${what}`, { method: "POST", body: what === "reset-password" ? {} : undefined, unscoped: true });
    if (answer.password) setMade(answer);
    people.reload();
  });
  const add = useAction(async (form, element) => {
    setMade(await post("/api/users", { email: form.email, name: form.name || undefined, is_admin: form.admin === "on" }, { unscoped: true }));
    element.reset();
    people.reload();
  });
  return html`<${Fault} error=${set.error} />
    ${made?.password ? html`<${Secret} text=${made.password} onClose=${() => setMade(null)}>Password of <bdi>${made.email}</bdi>, shown this once:<//>` : null}
    <${Card} title="A new account"><form class="form" onSubmit=${(event) => add.run(fields(event), event.currentTarget)}>
      <${Fault} error=${add.error} />
      <div class="row"><div class="grow"><${Field} label="Email"><input type="email" name="email" required /><//></div><div class="grow"><${Field} label="Name"><input type="text" name="name" /><//></div><label class="field inline"><input type="checkbox" name="admin" />administrator</label><button class="primary" disabled=${add.busy}>Make it</button></div></form><//>
    <${Card} title="Everybody"><${Loaded} of=${people} what="accounts">${(found) => html`<${Table} label="Accounts" testid="people" rows=${found.users} rowKey=${(one) => one.id} columns=${[
      { key: "name", title: "Name" }, { key: "email", title: "Email" },
      { key: "is_admin", title: "Administrator", cell: (one) => (one.is_admin ? "yes" : "no") },
      { key: "last_login_at", title: "Last login", cell: (one) => one.last_login_at ? html`<${Time} at=${one.last_login_at} relative />` : "never" },
      { key: "act", title: "", cell: (one) => one.id === session.user.value?.id ? null : html`<div class="actions"><button class="small" onClick=${() => set.run(one, "reset-password")}>New password</button><button class="small" onClick=${() => set.run(one, one.disabled_at ? "enable" : "disable")}>${one.disabled_at ? "Let in again" : "Let in no more"}</button></div>` },
    ]} /><p class="muted small">${number(found.users.length)} accounts</p>`}<//><//>`;
}
