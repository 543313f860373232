// Asking the service: one image a request, or many in one.

import { at } from "./models.js";
import { readProblem, unreachable } from "./problems.js";

/** Predict one image. Returns prediction, timing ({decode, queue, model, total} in s) and batchSize; throws Problem. */
export async function predict(image) {
  const kind = image.type.startsWith("image/") ? image.type : "application/octet-stream";
  const response = await ask({ method: "POST", headers: { "Content-Type": kind }, body: image });
  const { predictions } = await response.json();
  return {
    prediction: predictions[0],
    timing: readTiming(response.headers.get("server-timing") ?? ""),
    batchSize: Number(response.headers.get("microbatch-batch-size")),
  };
}

/** Predict copies of an image in one request. Returns predictions and batches ({id, size, images}); throws Problem. */
export async function predictCopies(image, count) {
  const form = new FormData();
  for (let i = 0; i < count; i += 1) form.append("image", image, `image-${i}`);
  const response = await ask({ method: "POST", body: form });
  const { predictions } = await response.json();
  return { predictions, batches: readBatches(response.headers.get("microbatch-batches") ?? "") };
}

async function ask(request) {
  let response;
  try {
    response = await fetch(at("predict"), request);
  } catch {
    throw unreachable();
  }
  if (!response.ok) throw await readProblem(response);
  return response;
}

function readTiming(header) {
  const parts = [...header.matchAll(/(\w+);dur=([\d.]+)/g)];
  return Object.fromEntries(parts.map(([, name, ms]) => [name, Number(ms) / 1000]));
}

function readBatches(header) {
  const parts = [...header.matchAll(/"([^"]+)";size=(\d+);images=(\d+)/g)];
  return parts.map(([, id, size, images]) => ({ id, size: Number(size), images: Number(images) }));
}
