// What both stress tests share: whom to ask, how long, and how the result is told.

export const URL = __ENV.FLEXFLOW_URL;
export const SHORT = __ENV.STRESS === "short";
// Limits on latency are for a machine of its own; a busy one may stretch them.
const SLACK = Number(__ENV.STRESS_SLACK || "1");

export const headers = { "Content-Type": "application/json", "X-API-Key": __ENV.FLEXFLOW_API_KEY };

// A limit on latency, in milliseconds.
export function within(ms) {
  return ms * SLACK;
}

const STATISTICS = ["avg", "med", "p(95)", "p(99)", "max"];
export const summaryTrendStats = STATISTICS;

// A table row for each of these metrics, and every threshold with what was found.
export function told(title, data, metrics) {
  const number = (value) => (value === undefined ? "-" : value.toFixed(1));
  const lines = [`${title}`, "", "| what | a second | p50 ms | p95 ms | p99 ms | max ms |", "|---|---|---|---|---|---|"];
  const requests = data.metrics.http_reqs;
  for (const name of metrics) {
    const metric = data.metrics[name];
    if (!metric) continue;
    const values = metric.values;
    const rate = name === "http_req_duration" ? number(requests.values.rate) : "";
    const cells = [values.med, values["p(95)"], values["p(99)"], values.max].map(number);
    lines.push(`| ${name} | ${rate} | ${cells.join(" | ")} |`);
  }
  lines.push("");
  for (const [name, metric] of Object.entries(data.metrics)) {
    for (const [threshold, outcome] of Object.entries(metric.thresholds || {})) {
      lines.push(`${outcome.ok ? "ok    " : "MISSED"} ${name}: ${threshold}`);
    }
  }
  return { stdout: lines.join("\n") + "\n" };
}
