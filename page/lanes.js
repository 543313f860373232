// One lane a batcher: what it did in the last minute, and how it is now.

import { byId, make } from "./dom.js";
import { digits, duration } from "./figures.js";
import { colour } from "./plot.js";

const WORDS = { idle: "idle", busy: "busy", warming: "warming up", breaker_open: "model away", gone: "gone" };
const TONES = { idle: "--idle", busy: "--accent", warming: "--wait", breaker_open: "--queue", gone: "--bad" };
const WINDOW_S = 60;
const SILENT_S = 2;
const lanes = new Map();

const tone = (state) => colour(TONES[state] ?? TONES.idle);

/** Show the batchers of one piece of news; who is no longer in it has left. */
export function showWorkers({ time, workers }) {
  byId("no-workers").hidden = workers.length > 0;
  for (const worker of workers) {
    if (!lanes.has(worker.id)) lanes.set(worker.id, addLane(worker.id));
    update(lanes.get(worker.id), worker, time);
  }
  const there = new Set(workers.map(({ id }) => id));
  for (const [id, lane] of lanes) {
    if (there.has(id)) continue;
    lane.item.remove();
    lanes.delete(id);
  }
}

function addLane(id) {
  const state = make("span", { className: "state" });
  const facts = make("span", { className: "facts" });
  const canvas = make("canvas", { className: "lane", role: "img" });
  const head = make("div", { className: "row" }, make("span", { className: "id", textContent: id }), state, facts);
  const item = make("li", { className: "worker", data: { id } }, head, canvas);
  byId("workers").append(item);
  return { item, state, facts, canvas, past: [] };
}

function update(lane, worker, time) {
  const heard = worker.silent_s < SILENT_S; // else nobody knows whether it is busy
  lane.past.push({ time, state: worker.state, busy: heard ? worker.busy : 0 });
  while (lane.past[0].time < time - WINDOW_S) lane.past.shift();
  lane.item.dataset.state = worker.state;
  lane.state.dataset.state = worker.state;
  lane.state.textContent = WORDS[worker.state] ?? worker.state;
  lane.facts.textContent = factsOf(worker);
  lane.canvas.setAttribute("aria-label", `${worker.id}: ${lane.state.textContent}, ${lane.facts.textContent}`);
  draw(lane.canvas, lane.past, time);
}

function factsOf({ state, silent_s: silentS, busy, images_per_s: imagesPerS, batch_s: batchS }) {
  if (state === "gone") return `silent for ${Math.round(silentS)} s; its jobs go to others`;
  const batch = batchS > 0 ? `a batch takes ${duration(batchS)}` : "no batch yet";
  return `with the model ${Math.round(busy * 100)} % of the time · ${digits(imagesPerS)} images/s · ${batch}`;
}

/** Draw the past, now at the right: as high as it was busy, but whole where its state is no usual one. */
function draw(canvas, past, now) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  const at = (time) => Math.round(width * (1 - (now - time) / WINDOW_S));
  pen.clearRect(0, 0, width, height);
  past.forEach(({ time, state, busy }, place) => {
    const from = place === 0 ? at(time - 0.25) : at(past[place - 1].time);
    const usual = state === "idle" || state === "busy";
    pen.fillStyle = tone("idle");
    if (usual) pen.fillRect(from, height - 2 * ratio, at(time) - from, 2 * ratio);
    pen.fillStyle = tone(usual ? "busy" : state);
    const high = usual ? height * Math.min(1, busy) : height;
    pen.fillRect(from, height - high, at(time) - from, high);
  });
}
