// Charts on uPlot. A chart never stands alone: the table beside it says the same in words.
import uPlot from "../vendor/uplot/uplot.js";
import { number, short, time } from "./format.js";
import { theme } from "./theme.js";
import { html, useLayoutEffect, useRef } from "./ui.js";

export const PALETTE = 10;

/** The colour of the n-th series, by the theme. @param {number} index */
export function color(index) {
  const name = `--series-${(index % PALETTE) + 1}`;
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#3367d6";
}

/**
 * @param {ChartProps} props
 *   `x`: moments in milliseconds, or words; `partial`: how many points at the end are not complete yet, drawn dashed
 */
export function Chart({ x, series, kind = "line", height = 280, label, onPoint, axis, partial = 0 }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const call = useRef(onPoint);
  call.current = onPoint;
  const shape = JSON.stringify([x, series, kind, height, partial, theme.value]);
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const { plot, follow } = draw(element, { x, series, kind, height, axis, partial }, call);
    const observer = new ResizeObserver(() => plot.setSize({ width: Math.max(120, element.clientWidth), height }));
    observer.observe(element);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const again = () => plot.redraw(false);
    dark.addEventListener("change", again);
    return () => {
      observer.disconnect();
      dark.removeEventListener("change", again);
      element.removeEventListener("click", follow);
      plot.destroy();
    };
  }, [shape]);
  const words = `${label}: ${series.map((one) => one.label).slice(0, 10).join(", ")}; the table has the numbers`;
  return html`<div class="chart" ref=${box} role="img" aria-label=${words} data-testid="chart"></div>`;
}

/**
 * @param {HTMLElement} element
 * @param {any} what
 * @param {{current: ((series: number, index: number) => void) | undefined}} call
 */
function draw(element, { x, series, kind, height, axis, partial }, call) {
  const moments = typeof x[0] === "number";
  const style = getComputedStyle(document.documentElement);
  const [ink, grid] = [style.getPropertyValue("--muted").trim(), style.getPropertyValue("--line").trim()];
  const bars = kind === "bar" || kind === "stacked";
  const across = x.map((/** @type {any} */ one, /** @type {number} */ index) => (moments ? one / 1000 : index));
  // Stacked: the tallest is drawn first, so that each shows its own part.
  const order = series.map((/** @type {Series} */ _, /** @type {number} */ at) => (kind === "stacked" ? series.length - 1 - at : at));
  const columns = kind === "stacked" ? stack(series) : series.map((/** @type {Series} */ one) => one.values);
  const words = (/** @type {number} */ at) => {
    if (axis) return axis(moments ? at * 1000 : x[at]);
    return moments ? time(at * 1000, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" }) : String(x[at] ?? "");
  };
  const lines = order.map((/** @type {number} */ index) => {
    const one = series[index];
    const stroke = one.color ?? color(index);
    return {
      label: one.label,
      stroke,
      width: 2,
      dash: one.dashed ? [5, 4] : undefined,
      fill: bars ? `${stroke}cc` : kind === "area" ? `${stroke}33` : undefined,
      paths: bars ? uPlot.paths.bars({ size: [0.7, 60] }) : partial > 0 && !one.dashed ? unfinished(partial) : undefined,
      points: { show: !bars && across.length < 60, size: 5 },
      value: (/** @type {any} */ _, /** @type {number | null} */ value, /** @type {number} */ _at, /** @type {number | null} */ at) =>
        number(at === null || at === undefined ? value : one.values[at]),
    };
  });
  const options = {
    width: Math.max(120, element.clientWidth),
    height,
    legend: { show: series.length <= 12, live: true },
    cursor: { focus: { prox: 24 }, points: { size: 8 }, drag: { x: false, y: false } },
    scales: { x: { time: moments, range: bars ? (/** @type {any} */ _, /** @type {number} */ low, /** @type {number} */ high) => pad(across, low, high) : undefined }, y: { range: (/** @type {any} */ _, /** @type {number} */ low, /** @type {number} */ high) => [Math.min(0, low), high > 0 ? high * 1.08 : 1] } },
    axes: [
      { stroke: ink, grid: { show: false }, ticks: { stroke: grid }, space: moments ? 60 : 24 + 6.5 * Math.max(3, ...x.map((/** @type {any} */ one) => String(one).length)), values: (/** @type {any} */ _, /** @type {number[]} */ splits) => splits.map((at) => (moments ? axis ? axis(at * 1000) : time(at * 1000, tick(across)) : Number.isInteger(at) ? words(at) : "")) },
      { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { show: false }, size: 56, values: (/** @type {any} */ _, /** @type {number[]} */ splits) => splits.map(short) },
    ],
    series: [{ label: moments || axis ? "Time" : "At", value: (/** @type {any} */ _, /** @type {number | null} */ at) => (at === null ? "–" : words(at)) }, ...lines],
  };
  const plot = new uPlot(options, [across, ...order.map((/** @type {number} */ at) => columns[at])], element);
  const follow = () => {
    const { idx } = plot.cursor;
    if (idx === null || idx === undefined || !call.current) return;
    const focused = plot.series.findIndex((/** @type {any} */ one, /** @type {number} */ at) => at > 0 && one._focus);
    call.current(order[Math.max(0, focused - 1)] ?? 0, idx);
  };
  element.addEventListener("click", follow);
  return { plot, follow };
}

/** What is below zero stands on its own, downwards. @param {Series[]} series */
function stack(series) {
  const [above, below] = [(series[0]?.values ?? []).map(() => 0), (series[0]?.values ?? []).map(() => 0)];
  return series.map((one) => one.values.map((value, at) => {
    const side = (value ?? 0) < 0 ? below : above;
    return (side[at] = (side[at] ?? 0) + (value ?? 0));
  }));
}

/** @param {number[]} across @param {number} low @param {number} high */
function pad(across, low, high) {
  const step = across.length > 1 ? (/** @type {number} */ (across[across.length - 1]) - /** @type {number} */ (across[0])) / (across.length - 1) : 1;
  return [low - step / 2, high + step / 2];
}

/** @param {number[]} across @returns {Intl.DateTimeFormatOptions} */
function tick(across) {
  const span = (across[across.length - 1] ?? 0) - (across[0] ?? 0);
  if (span <= 2 * 86_400) return { hour: "2-digit", minute: "2-digit" };
  return span > 400 * 86_400 ? { month: "short", year: "numeric" } : { month: "short", day: "numeric" };
}

/**
 * A line whose last points are dashed: they are not complete yet.
 * @param {number} count
 */
function unfinished(count) {
  const linear = uPlot.paths.linear();
  return (/** @type {any} */ plot, /** @type {number} */ index, /** @type {number} */ from, /** @type {number} */ to) => {
    const split = Math.max(from, to - count);
    const whole = split > from ? linear(plot, index, from, split) : null;
    const { ctx } = plot;
    const data = plot.data[index];
    ctx.save();
    ctx.strokeStyle = plot.series[index].stroke instanceof Function ? plot.series[index].stroke(plot, index) : plot.series[index].stroke;
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    for (let at = split; at <= to; at++) {
      if (data[at] === null || data[at] === undefined) continue;
      ctx.lineTo(plot.valToPos(plot.data[0][at], "x", true), plot.valToPos(data[at], "y", true));
    }
    ctx.stroke();
    ctx.restore();
    return whole;
  };
}
