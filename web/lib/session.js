// Who is logged in, and which project and environment they look at.
//
// The refresh token, which is used up by its first use, is in localStorage, so that a second tab and tomorrow morning need
// no password; the access token is in sessionStorage, so that a reload uses up none (ARCHITECTURE, "Where the page keeps
// its session").
import { ApiError, request } from "./api.js";
import { setQuery } from "./router.js";
import { signal } from "./ui.js";
import { toast } from "./toast.js";

const ACCESS = "flexflow.access";
const REFRESH = "flexflow.refresh";
const SCOPE = "flexflow.scope";

let accessToken = sessionStorage.getItem(ACCESS) ?? "";
/** @type {Promise<boolean> | null} */
let refreshing = null;

/** The person, once it is known; null while nobody is logged in. @type {import("./ui.js").Signal<User | null>} */
const user = signal(null);
/** The projects the person can look at. @type {import("./ui.js").Signal<Project[]>} */
const projects = signal([]);
/** Where they look. @type {import("./ui.js").Signal<Scope>} */
const scope = signal(stored());
/** unknown until the first load has found out. @type {import("./ui.js").Signal<"unknown" | "in" | "out">} */
const state = signal("unknown");

/** @returns {Scope} */
function stored() {
  try {
    const { project, environment } = JSON.parse(sessionStorage.getItem(SCOPE) ?? localStorage.getItem(SCOPE) ?? "");
    return { project: String(project ?? ""), environment: String(environment ?? "") };
  } catch {
    return { project: "", environment: "" };
  }
}

/** @param {Scope} next */
function choose(next) {
  const now = scope.peek();
  if (now.project === next.project && now.environment === next.environment) return;
  for (const kept of [sessionStorage, localStorage]) kept.setItem(SCOPE, JSON.stringify(next));
  scope.value = next;
}

/** @param {any} pair */
function take(pair) {
  accessToken = pair.access_token;
  sessionStorage.setItem(ACCESS, accessToken);
  localStorage.setItem(REFRESH, pair.refresh_token);
  user.value = pair.user;
}

/** Another tab may be at it too: the token is used by one of them, under a lock, and the others find the next one. */
async function exchange() {
  const before = localStorage.getItem(REFRESH);
  if (!before) return false;
  const use = async () => {
    const token = localStorage.getItem(REFRESH);
    if (!token) return false;
    try {
      take(await request("/api/auth/refresh", { method: "POST", body: { refresh_token: token }, anonymous: true }));
      return true;
    } catch (error) {
      if (error instanceof ApiError && (error.status === 401 || error.status === 400)) {
        localStorage.removeItem(REFRESH);
        return false;
      }
      throw error;
    }
  };
  return navigator.locks ? navigator.locks.request(REFRESH, use) : use();
}

function refresh() {
  refreshing ??= exchange().finally(() => {
    refreshing = null;
  });
  return refreshing;
}

/** The session is over: the log-in page comes up, and leads back to where the person was. */
function ended() {
  accessToken = "";
  sessionStorage.removeItem(ACCESS);
  localStorage.removeItem(REFRESH);
  user.value = null;
  state.value = "out";
}

/** @param {Project[]} all @param {string} id */
const nameOf = (all, id) => all.find((one) => one.id === id)?.name ?? id;

/**
 * Holds the chosen project and environment against those that the server says are valid, and replaces a stale one in
 * sight of the person. Answers whether it replaced something.
 */
async function repair() {
  const chosen = scope.peek();
  let valid;
  try {
    valid = await request("/api/environments", { project: chosen.project, again: true });
  } catch (error) {
    if (!(error instanceof ApiError) || (error.status !== 403 && error.status !== 400 && error.status !== 404)) throw error;
    const named = /** @type {any[]} */ (Array.isArray(error.details.valid) ? error.details.valid : []);
    const own = named.map((one) => String(one?.id ?? one));
    const known = projects.peek().map((one) => one.id).filter((id) => id !== chosen.project);
    const other = own.find((id) => id !== chosen.project) ?? known[0];
    if (!other) return false;
    valid = await request("/api/environments", { project: other, again: true });
  }
  /** @type {Environment[]} */
  const environments = valid.environments;
  const same = valid.project_id === chosen.project && environments.some((one) => one.id === chosen.environment);
  if (same || environments.length === 0) return false;
  const production = environments.find((one) => one.name === "production") ?? environments[0];
  if (!production) return false;
  choose({ project: valid.project_id, environment: production.id });
  if (chosen.project || chosen.environment) {
    const project = nameOf(projects.peek(), valid.project_id);
    toast(
      `The environment you looked at before is not there any more, or not yours. You are now in ${project}, ${production.name}.`,
      { kind: "warning", name: "scope" },
    );
  }
  return true;
}

/** Asks anew who is logged in and what they can see. */
async function load() {
  const me = await request("/api/auth/me", { unscoped: true });
  let found = /** @type {Project[]} */ (me.projects);
  if (me.user.is_admin) found = await everyProject(found);
  user.value = me.user;
  projects.value = found;
  const known = found.find((one) => one.id === scope.peek().project);
  if (!known?.environments.some((one) => one.id === scope.peek().environment)) await repair();
  state.value = "in";
}

/**
 * An administrator may look into every project, a member of it or not.
 * @param {Project[]} own
 * @returns {Promise<Project[]>}
 */
async function everyProject(own) {
  const { projects: all } = await request("/api/projects", { unscoped: true, project: own[0]?.id });
  const others = all.filter((/** @type {Project} */ one) => !own.some((mine) => mine.id === one.id));
  const named = others.map(async (/** @type {Project} */ one) => {
    const { environments } = await request(`/api/projects/${encodeURIComponent(one.id)}/environments`, { unscoped: true });
    return { ...one, role: "owner", environments };
  });
  return [...own, ...(await Promise.all(named))];
}

/** The start of the page. */
async function begin() {
  const linked = new URLSearchParams(location.search);
  const [project, environment] = [linked.get("project"), linked.get("environment")];
  if (project && environment) {
    choose({ project, environment });
    setQuery({ project: null, environment: null });
  }
  // The link that the first start prints: its token is good once, and does not stay in the address.
  const given = new URLSearchParams(location.hash.slice(1)).get("login");
  if (given) {
    history.replaceState(null, "", location.pathname + location.search);
    if (!accessToken && !localStorage.getItem(REFRESH)) localStorage.setItem(REFRESH, given);
  }
  if (accessToken || (await refresh())) await load();
  else {
    state.value = "out";
    if (given) toast("This link was used before, or is too old: log in with the password.", { kind: "warning" });
  }
}

/** @param {string} email @param {string} password */
async function login(email, password) {
  take(await request("/api/auth/login", { method: "POST", body: { email, password }, anonymous: true }));
  await load();
}

/** @param {{email: string, password: string, name?: string, invitation?: string}} who */
async function register(who) {
  take(await request("/api/auth/register", { method: "POST", body: who, anonymous: true }));
  await load();
}

async function logout() {
  await request("/api/auth/logout", { method: "POST", unscoped: true, again: true }).catch(() => null);
  ended();
}

/** What the person may do in the chosen project. */
function role() {
  if (user.value?.is_admin) return "owner";
  return projects.value.find((one) => one.id === scope.value.project)?.role ?? "viewer";
}

/** The chosen project and environment, by their names. */
function place() {
  const project = projects.value.find((one) => one.id === scope.value.project);
  const environment = project?.environments.find((one) => one.id === scope.value.environment);
  return { project, environment };
}

/** The address of what is on screen, to be given to somebody else: it names the project and the environment, too. */
function link() {
  const query = new URLSearchParams(location.search);
  query.set("project", scope.peek().project);
  query.set("environment", scope.peek().environment);
  return `${location.origin}${location.pathname}?${query}`;
}

export const session = {
  user, projects, scope, state,
  token: () => accessToken,
  choose, refresh, ended, repair, load, begin, login, register, logout, role, place, link,
};

// The link of the first start, in a tab that is open already.
addEventListener("hashchange", () => location.hash.startsWith("#login=") && location.reload());
// Another tab logged out.
addEventListener("storage", (event) => {
  if (event.key === REFRESH && event.newValue === null && state.peek() === "in") ended();
});
