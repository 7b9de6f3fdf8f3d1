// Asks trends over 7 days and funnels of 3 steps over 30 days again and again, none from the cache: p95 of trends below
// 2 s, of funnels below 10 s, no errors. Send events first: `flexflow generate --events 1000000 --days-back 30`.
//   ./justw stress-query

import http from "k6/http";
import { check } from "k6";
import { SHORT, URL, headers, summaryTrendStats, told, within } from "./stress.js";

const LONG_RAMP = [
  { duration: "1m", target: 2 },
  { duration: "3m", target: 5 },
  { duration: "4m", target: 10 },
  { duration: "2m", target: 10 },
];
const SHORT_RAMP = [{ duration: "4s", target: 2 }];

export const options = {
  scenarios: {
    query: {
      executor: "ramping-vus",
      startVUs: 1,
      stages: SHORT ? SHORT_RAMP : LONG_RAMP,
      gracefulRampDown: "30s",
    },
  },
  summaryTrendStats,
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate<0.001"],
    "http_req_duration{question:trend}": [`p(95)<${within(2000)}`],
    "http_req_duration{question:funnel}": [`p(95)<${within(10000)}`],
  },
};

const TREND = {
  date_from: "-7d",
  interval: "day",
  series: [{ event: "$pageview", math: "total" }, { event: "$pageview", math: "dau" }],
  refresh: true,
};
const FUNNEL = {
  date_from: "-30d",
  steps: [{ event: "$pageview" }, { event: "ad clicked" }, { event: "order completed" }],
  refresh: true,
};

function ask(question, path, body) {
  const answer = http.post(`${URL}${path}`, JSON.stringify(body), { headers, tags: { question }, timeout: "60s" });
  check(answer, { [`${question} answered 200`]: (r) => r.status === 200 });
}

export default function () {
  ask("trend", "/api/query/trends", TREND);
  ask("funnel", "/api/query/funnel", FUNNEL);
}

export function handleSummary(data) {
  return told("query", data, [
    "http_req_duration",
    "http_req_duration{question:trend}",
    "http_req_duration{question:funnel}",
  ]);
}
