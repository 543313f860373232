// One chart in its place: uPlot in the colours of the theme, as wide as there is room, and in words beside it.

/* global uPlot */
import { byId, make } from "./dom.js";

const FRAME = { legend: { show: false }, cursor: { show: false }, padding: [8, 20, 0, 0] };

/** Return the value of a colour that page.css names. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Put a chart into its figure. `options()` is asked again when the theme changes.
 * Returns `show(data)`, `tell(values, more)` with {text, tone} each, and `redo()`.
 */
export function addPlot(id, title, options, first) {
  const now = make("span", { className: "now" });
  const place = make("div", { className: "plot", role: "img", aria: { label: title } });
  byId(id).append(make("figcaption", {}, make("b", { textContent: title }), now), place);

  let data = first;
  let chart = null;
  const size = () => ({ width: Math.max(120, place.clientWidth), height: place.clientHeight });
  const redo = () => {
    chart?.destroy();
    chart = new uPlot({ ...FRAME, ...size(), ...options() }, data, place);
  };
  redo();
  new ResizeObserver(() => chart.setSize(size())).observe(place);

  return {
    redo,
    show: (next) => chart.setData((data = next)),
    tell: (values, more = "") => {
      now.replaceChildren(...values.map(word));
      place.setAttribute("aria-label", `${title}, now: ${values.map(({ text }) => text).join(", ")}${more}`);
    },
  };
}

function word({ text, tone }) {
  const element = make("span", { textContent: text });
  element.style.setProperty("--series", `var(${tone})`);
  return element;
}

export const line = (tone, filled) => ({
  width: 2,
  stroke: colour(tone),
  fill: filled ? `${colour(tone)}22` : undefined,
  points: { show: false },
});

export const bars = (tone) => ({
  stroke: colour(tone),
  fill: colour(tone),
  paths: uPlot.paths.bars({ size: [0.7, 60] }),
  points: { show: false },
});

export const axis = (more) => ({
  stroke: colour("--muted"),
  font: "12px system-ui, sans-serif",
  grid: { stroke: colour("--line"), width: 1 },
  ticks: { show: false },
  ...more,
});

/** From nothing to a little more than the most there is, and at least to `least`. */
export const upFrom = (least) => ({ range: (_chart, _min, max) => [0, Math.max(least, max * 1.15)] });
