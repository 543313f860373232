// One image sent a hundred times at once: how many batches they ride in, and what that saves.

import { byId, make } from "./dom.js";
import { digits, duration, plural } from "./figures.js";
import { predict, predictCopies } from "./predict.js";
import { pngOf, sampleDigit } from "./strokes.js";

const COUNT = 100;
const ALONE = 5;
const ALONE_AT_MOST_S = 3;
const SEVEN = 7;

let current = null;
let limits = { max_images_per_request: 50, max_body_bytes: 20 * 1024 * 1024 };

/** Make the image the one that is sent. */
export function setCurrent(image, name) {
  current = { image, name };
  byId("crowd-image").textContent = `Sends ${name} ${COUNT} times.`;
}

/** Note what the service takes in one request. */
export function setLimits(told) {
  limits = { ...limits, ...told };
}

export async function startCrowd() {
  byId("crowd").addEventListener("click", send);
  if (current === null) setCurrent(await pngOf(sampleDigit(SEVEN)), "a sample 7");
}

async function send() {
  const button = byId("crowd");
  const result = byId("crowd-result");
  button.disabled = true;
  result.replaceChildren(make("p", { className: "muted", textContent: `sending ${COUNT} …` }));
  try {
    const alone = await oneByOne(current.image);
    result.replaceChildren(...tell(alone, await allAtOnce(current.image)));
  } catch (problem) {
    const what = make("strong", { textContent: problem.message });
    result.replaceChildren(make("p", { className: "problem" }, what, ` ${problem.advice ?? ""}`));
  } finally {
    button.disabled = false;
  }
}

/** Send a few, each after the answer to the one before; returns how many, and what each took. */
async function oneByOne(image) {
  const started = performance.now();
  const spentS = () => (performance.now() - started) / 1000;
  let sent = 0;
  while (sent < ALONE && spentS() < ALONE_AT_MOST_S) {
    await predict(image);
    sent += 1;
  }
  return { sent, eachS: spentS() / sent };
}

/** Send all of them in as few requests as the service takes: each image is a job of its own there. */
async function allAtOnce(image) {
  const room = Math.floor((limits.max_body_bytes * 0.95) / (image.size + 200));
  const most = Math.max(1, Math.min(COUNT / 2, limits.max_images_per_request, room));
  const counts = Array.from({ length: Math.ceil(COUNT / most) }, (_, i) => Math.min(most, COUNT - i * most));
  const started = performance.now();
  const answers = await Promise.all(counts.map((count) => predictCopies(image, count)));
  return { requests: counts.length, tookS: (performance.now() - started) / 1000, ...merged(answers) };
}

function merged(answers) {
  const batches = new Map();
  for (const { id, size, images } of answers.flatMap((answer) => answer.batches)) {
    const seen = batches.get(id)?.images ?? 0;
    batches.set(id, { size, images: seen + images });
  }
  const failed = answers.flatMap(({ predictions }) => predictions).filter((one) => one?.error);
  return { batches: [...batches.values()], failed };
}

/** Say in how many batches they were; an answer does not name endlessly many, and that of a lone image none. */
function inBatches(batches, failed) {
  if (batches.length === 0) return "";
  const named = batches.reduce((sum, { images }) => sum + images, 0);
  const atLeast = named + failed.length < COUNT ? "at least " : "";
  return ` in ${atLeast}${plural(batches.length, "batch", "batches")}`;
}

function tell(alone, { requests, tookS, batches, failed }) {
  const oneByOneS = alone.eachS * COUNT;
  const times = digits(Math.round((oneByOneS / tookS) * 10) / 10);
  const lines = [
    make(
      "p",
      { className: "best" },
      make("strong", { textContent: duration(tookS) }),
      ` for ${COUNT} images${inBatches(batches, failed)}`,
    ),
    make("ul", { className: "batches", aria: { label: "Batches" } }, ...batches.map(block)),
    make("p", {
      className: "muted",
      textContent:
        `Sent in ${plural(requests, "request")}; each image was a job of its own. ` +
        `One by one they would take about ${duration(oneByOneS)}, ${times} times as long ` +
        `(${duration(alone.eachS)} each, measured on ${alone.sent}).` +
        (batches.some(({ size, images }) => size > images) ? " Grey: images of others in the same batch." : ""),
    }),
  ];
  if (failed.length)
    lines.push(
      make("p", { className: "problem", textContent: `${failed.length} failed: ${failed[0].error.message}.` }),
    );
  return lines;
}

/** Show a batch as wide as it is full, with what others had in it. */
function block({ size, images }) {
  const others = size - images;
  const words = others > 0 ? `${size}, ${others} of them of others` : String(size);
  const item = make("li", { textContent: size, title: `a batch of ${words}`, aria: { label: `batch of ${words}` } });
  item.style.setProperty("--size", size);
  item.style.setProperty("--own", images / size);
  return item;
}
