// Requests to the public API: the credential and the scope go with each, a 401 is refreshed once, a 403 for a stale
// environment is repaired once, and whatever fails is an ApiError that says what to do.
import { parse } from "./json.js";
import { session } from "./session.js";

/** An answer that is an error, or none at all. */
export class ApiError extends Error {
  /**
   * @param {{status: number, code: string, message: string, details?: any, requestId?: string, retryAfter?: number}} what
   */
  constructor(what) {
    super(what.message);
    this.status = what.status;
    this.code = what.code;
    this.details = what.details ?? {};
    this.requestId = what.requestId ?? "";
    /** Seconds to wait, if the server said so. */
    this.retryAfter = what.retryAfter ?? 0;
  }
}

/**
 * @param {string} path
 * @param {Record<string, any>} [query]
 */
export function address(path, query) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") parts.append(name, String(one));
    }
  }
  const text = parts.toString();
  return text ? `${path}?${text}` : path;
}

/**
 * @param {Asked} asked
 * @returns {Record<string, string>}
 */
function headers(asked) {
  /** @type {Record<string, string>} */
  const sent = {};
  if (asked.body !== undefined) sent["Content-Type"] = "application/json";
  const token = session.token();
  if (!asked.anonymous && token) sent["Authorization"] = `Bearer ${token}`;
  const scope = session.scope.peek();
  if (!asked.anonymous && !asked.unscoped) {
    const project = asked.project ?? scope.project;
    if (project) sent["X-Project-ID"] = project;
    if (!asked.project && scope.environment) sent["X-Environment-ID"] = scope.environment;
  }
  return sent;
}

/**
 * @param {Response} answer
 * @returns {Promise<ApiError>}
 */
async function fault(answer) {
  const text = await answer.text().catch(() => "");
  /** @type {any} */
  let body = {};
  try {
    body = parse(text);
  } catch {
    // Not ours: a proxy in between answered.
  }
  return new ApiError({
    status: answer.status,
    code: body.code ?? "unknown",
    message: body.message ?? `the server answered ${answer.status} ${answer.statusText}`.trim(),
    details: body.details,
    requestId: body.request_id ?? answer.headers.get("X-Request-ID") ?? "",
    retryAfter: Number(answer.headers.get("Retry-After") ?? 0),
  });
}

/**
 * Sends a request and answers the response, good or not.
 * @param {string} path
 * @param {Asked} asked
 * @returns {Promise<Response>}
 */
async function send(path, asked) {
  try {
    return await fetch(address(path, asked.query), {
      method: asked.method ?? "GET",
      headers: headers(asked),
      body: asked.body === undefined ? undefined : JSON.stringify(asked.body),
      signal: asked.signal,
      cache: "no-store",
    });
  } catch (error) {
    if (asked.signal?.aborted) throw error;
    throw new ApiError({ status: 0, code: "unreachable", message: "FlexFlow cannot be reached: is the server running, and are you connected?" });
  }
}

/**
 * The one way to ask the API.
 * @param {string} path
 * @param {Asked} [asked]
 * @returns {Promise<any>}
 */
export async function request(path, asked = {}) {
  const answer = await send(path, asked);
  if (answer.ok) {
    if (asked.as === "response") return answer;
    const text = await answer.text();
    return asked.as === "text" || text === "" ? text : parse(text);
  }
  const error = await fault(answer);
  if (!asked.anonymous && !asked.again) {
    if (error.status === 401 && (await session.refresh())) return request(path, { ...asked, again: true });
    const repairs = error.status === 403 && !asked.unscoped && !asked.project;
    if (repairs && (await session.repair())) return request(path, { ...asked, again: true });
  }
  if (error.status === 401 && !asked.anonymous && !asked.guess) session.ended();
  throw error;
}

/** @param {string} path @param {Record<string, any>} [query] @param {Asked} [more] */
export const get = (path, query, more) => request(path, { ...more, query });
/** @param {string} path @param {any} [body] @param {Asked} [more] */
export const post = (path, body, more) => request(path, { ...more, method: "POST", body });
/** @param {string} path @param {any} body @param {Asked} [more] */
export const patch = (path, body, more) => request(path, { ...more, method: "PATCH", body });
/** @param {string} path @param {any} body @param {Asked} [more] */
export const put = (path, body, more) => request(path, { ...more, method: "PUT", body });
/** @param {string} path @param {Asked} [more] */
export const del = (path, more) => request(path, { ...more, method: "DELETE" });

/**
 * Follows a stream of server-sent events until it ends or is aborted. `fetch` and not EventSource, which cannot send
 * the credential.
 * @param {string} path
 * @param {Asked} asked
 * @param {(kind: string, data: any) => void} each
 */
export async function follow(path, asked, each) {
  /** @type {Response} */
  const answer = await request(path, { ...asked, as: "response" });
  const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const messages = rest.split("\n\n");
    rest = messages.pop() ?? "";
    for (const message of messages) {
      let kind = "message";
      const data = [];
      for (const line of message.split("\n")) {
        if (line.startsWith("event:")) kind = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      }
      if (data.length > 0) each(kind, parse(data.join("\n")));
    }
  }
}
