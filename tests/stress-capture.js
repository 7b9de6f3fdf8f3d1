// Sends single events at a rate that climbs from 100 a second over 1,000 to 5,000, as in the runbook: every answer a 202,
// p99 below 200 ms, no errors. At the end an event must be visible within 30 s, so the pipeline keeps up.
//   ./justw stress-capture

import http from "k6/http";
import exec from "k6/execution";
import { check, sleep } from "k6";
import { Counter, Trend } from "k6/metrics";
import { SHORT, URL, headers, summaryTrendStats, told, within } from "./stress.js";

const accepted = new Counter("events_accepted");
const visibleAfter = new Trend("visible_after", true);

const LONG_RAMP = [
  { duration: "1m", target: 100 },
  { duration: "2m", target: 1000 },
  { duration: "2m", target: 1000 },
  { duration: "2m", target: 5000 },
  { duration: "5m", target: 5000 },
];
const SHORT_RAMP = [
  { duration: "1s", target: 100 },
  { duration: "3s", target: 300 },
];

export const options = {
  scenarios: {
    capture: {
      executor: "ramping-arrival-rate",
      startRate: SHORT ? 50 : 100,
      timeUnit: "1s",
      preAllocatedVUs: SHORT ? 50 : 300,
      maxVUs: SHORT ? 200 : 2000,
      stages: SHORT ? SHORT_RAMP : LONG_RAMP,
      gracefulStop: "5s",
    },
  },
  summaryTrendStats,
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate<0.001"],
    "http_req_duration{surface:capture}": [`p(99)<${within(200)}`],
    // Requests that could not be begun at their time, because all before them were still waiting.
    dropped_iterations: [`rate<${within(5)}`],
    visible_after: ["max<30000"],
  },
};

function event() {
  const people = 10000;
  return JSON.stringify({
    event: "stress_capture",
    distinct_id: `stress-${Math.floor(Math.random() * people)}`,
    properties: { ad_id: `food_${exec.scenario.iterationInTest % 100}`, price: 9.99, page: "/menu" },
  });
}

export default function () {
  const answer = http.post(`${URL}/capture`, event(), { headers, tags: { surface: "capture" } });
  if (check(answer, { "answered 202": (r) => r.status === 202 })) accepted.add(1);
}

export function teardown() {
  const id = `stress-${Date.now()}-${Math.floor(Math.random() * 1e9)}`;
  const last = JSON.stringify({ event: "stress_capture_end", distinct_id: id, event_id: id });
  const began = Date.now();
  const sent = http.post(`${URL}/capture`, last, { headers });
  let visible = false;
  while (!visible && Date.now() - began < 30000) {
    const trace = http.get(`${URL}/api/query/events/${id}/trace`, {
      headers,
      responseCallback: http.expectedStatuses(200, 404),
    });
    visible = trace.status === 200 && trace.json("status") === "stored";
    if (!visible) sleep(0.1);
  }
  visibleAfter.add(Date.now() - began);
  check(sent, { "the last event is accepted": (r) => r.status === 202 });
  check(visible, { "the last event is visible within 30 s": (is) => is });
}

export function handleSummary(data) {
  return told("capture", data, ["http_req_duration", "http_req_duration{surface:capture}", "visible_after"]);
}
