// The charts of the last minute: depth, throughput, latency, and how large batches were.

import { digits, duration } from "./figures.js";
import { addPlot, axis, bars, line, upFrom } from "./plot.js";

const WINDOW_S = 60;
const TICKS_S = [60, 45, 30, 15, 0];
const LABELS_PIXELS = { x: 26, y: 50 };
const COUNTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
const LINES = {
  depth: {
    title: "Queue depth",
    series: [
      { label: "waiting", of: (news) => news.waiting, tone: "--accent" },
      { label: "running", of: (news) => news.in_flight, tone: "--queue" },
    ],
    say: digits,
    incrs: COUNTS,
    least: 1,
  },
  throughput: {
    title: "Throughput",
    series: [
      { label: "images/s", of: (news) => news.images_per_s, tone: "--accent" },
      { label: "errors/s", of: (news) => news.errors_per_s, tone: "--bad" },
    ],
    say: digits,
    least: 1,
  },
  latency: {
    title: "Latency",
    series: [
      { label: "p50", of: (news) => news.p50_s, tone: "--accent" },
      { label: "p99", of: (news) => news.p99_s, tone: "--queue" },
    ],
    say: duration,
    least: 0.001,
  },
};

let largest = 32; // the size of a full batch

/** Make the charts. Returns what takes the next news in, what marks a gap, and what tells the size of a full batch. */
export function startCharts() {
  const charts = [...Object.entries(LINES).map(([name, chart]) => lineChart(name, chart)), sizesChart()];
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.redo()));
  return {
    take: (news) => charts.forEach((chart) => chart.take(news)),
    gap: () => charts.forEach((chart) => chart.gap()),
    setLargest: (size) => (largest = size),
  };
}

function lineChart(name, { title, series, say, incrs, least }) {
  const data = [[], ...series.map(() => [])];
  const last = () => data[0].at(-1) ?? WINDOW_S;
  const plot = addPlot(
    `${name}-chart`,
    title,
    () => ({
      scales: { x: { time: false, range: () => [last() - WINDOW_S, last()] }, y: upFrom(least) },
      series: [{}, ...series.map(({ tone }, place) => line(tone, place === 0))],
      axes: [
        axis({
          size: LABELS_PIXELS.x,
          splits: () => TICKS_S.map((ago) => last() - ago),
          values: () => TICKS_S.map((ago) => (ago ? `−${ago} s` : "now")),
        }),
        axis({ size: LABELS_PIXELS.y, incrs, values: (_chart, values) => values.map(say) }),
      ],
    }),
    data,
  );
  const add = (time, values) => {
    [time, ...values].forEach((value, place) => data[place].push(value));
    while (data[0][0] < time - WINDOW_S - 1) data.forEach((column) => column.shift());
  };
  return {
    redo: plot.redo,
    take: (news) => {
      const values = series.map(({ of }) => of(news));
      add(news.time, values);
      plot.show(data);
      plot.tell(series.map(({ label, tone }, place) => ({ text: `${label} ${say(values[place])}`, tone })));
    },
    gap: () =>
      add(
        last() + 0.001,
        series.map(() => null),
      ),
  };
}

/** Show how many batches of the last minute were how large. */
function sizesChart() {
  const recent = []; // {time, sizes}
  let bounds = ["1"];
  const places = () => bounds.map((_, place) => place);
  const plot = addPlot(
    "sizes-chart",
    "Batch sizes",
    () => ({
      scales: { x: { time: false, range: () => [-0.6, bounds.length - 0.4] }, y: upFrom(1) },
      series: [{}, bars("--accent")],
      axes: [
        axis({
          size: LABELS_PIXELS.x,
          grid: { show: false },
          splits: places,
          values: () => bounds.map((_, place) => shortRange(bounds, place)),
        }),
        axis({ size: LABELS_PIXELS.y, incrs: COUNTS, values: (_chart, values) => values.map(digits) }),
      ],
    }),
    [[0], [0]],
  );
  return {
    redo: plot.redo,
    take: ({ time, batch_sizes: sizes }) => {
      recent.push({ time, sizes });
      while (recent[0].time < time - WINDOW_S) recent.shift();
      bounds = boundsOf(recent);
      const counts = bounds.map((bound) => countOf(recent, bound));
      plot.show([places(), counts]);
      const total = counts.reduce((sum, count) => sum + count, 0);
      const most = total ? `, most of ${range(bounds, counts.indexOf(Math.max(...counts)))}` : "";
      plot.tell([{ text: `${digits(total)} in the last minute`, tone: "--accent" }], most);
    },
    gap: () => {},
  };
}

const sizeOf = (bound) => (bound === "inf" ? Infinity : Number(bound));
const countOf = (recent, bound) => recent.reduce((sum, { sizes }) => sum + (sizes[bound] ?? 0), 0);

/** Return the buckets up to that of a full batch, or of the largest seen. */
function boundsOf(recent) {
  const all = Object.keys(recent.at(-1).sizes).sort((a, b) => sizeOf(a) - sizeOf(b));
  const full = all.findIndex((bound) => sizeOf(bound) >= largest);
  const seen = all.findLastIndex((bound) => countOf(recent, bound) > 0);
  return all.slice(0, Math.max(full, seen) + 1);
}

/** Name the sizes of a bucket: those over the one before it, up to its own. */
function range(bounds, place) {
  const [before, most] = [sizeOf(bounds[place - 1] ?? "0"), sizeOf(bounds[place])];
  if (most === Infinity) return `more than ${before}`;
  return before + 1 === most ? String(most) : `${before + 1} to ${most}`;
}

const shortRange = (bounds, place) =>
  range(bounds, place)
    .replace(/^\d+ to /, "≤")
    .replace("more than ", ">");
