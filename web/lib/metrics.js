// The process's own counters, as /metrics tells them, and how fast they grow.
import { request } from "./api.js";
import { useLoad } from "./load.js";
import { useEffect, useRef, useState } from "./ui.js";

/** @param {string} text @returns {Sample[]} */
export function read(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const parts = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!parts) continue;
    /** @type {Record<string, string>} */
    const labels = {};
    for (const [, name = "", value = ""] of (parts[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    found.push({ name: parts[1] ?? "", labels, value: Number(parts[3]) });
  }
  return found;
}

/**
 * The sum of a metric over the series with these labels.
 * @param {Sample[]} samples @param {string} name @param {Record<string, string>} [labels]
 */
export function sum(samples, name, labels = {}) {
  const fits = (/** @type {Sample} */ one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value);
  return samples.filter(fits).reduce((total, one) => total + one.value, 0);
}

/** Looks every five seconds, and keeps the last half hour. */
export function useMetrics() {
  const now = useLoad((signal) => request("/metrics", { as: "text", anonymous: true, signal }), [], { every: 5000 });
  const [moments, setMoments] = useState(/** @type {Moment[]} */ ([]));
  const last = useRef(0);
  useEffect(() => {
    if (now.data === undefined || now.at === last.current) return;
    last.current = now.at;
    const moment = { at: now.at, samples: read(now.data) };
    setMoments((before) => [...before, moment].slice(-360));
  }, [now.at]);
  return { moments, error: now.error, reload: now.reload };
}

/**
 * Growth a minute between looks; null where the process began anew.
 * @param {Moment[]} moments @param {string} name @param {Record<string, string>} [labels]
 */
export function perMinute(moments, name, labels) {
  return moments.slice(1).map((moment, index) => {
    const before = /** @type {Moment} */ (moments[index]);
    const grown = sum(moment.samples, name, labels) - sum(before.samples, name, labels);
    return grown < 0 ? null : (grown * 60_000) / (moment.at - before.at);
  });
}
