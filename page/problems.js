// What went wrong, and what a person can do about it.

const ADVICE = {
  bad_request: "Choose another file.",
  too_large: "Choose a smaller image.",
  unsupported_media_type: "Choose a photo or drawing: a JPEG, PNG, WebP, GIF, BMP or TIFF file.",
  invalid_image: "The file is damaged or was cut short: choose another.",
  body_timeout: "The way to the service is slow: try a smaller image.",
  queue_full: "The service has more to do than it can.",
  model_failed: "The model cannot work on this image: choose another. The batcher's log says why.",
  model_unavailable: "The model server is away: see whether it runs.",
  deadline_exceeded: "The service is too busy: try again later, or start another batcher.",
  unavailable: "",
  internal_error: "This is a fault of the service: its log says more.",
};
const WORTH_ANOTHER_TRY = new Set([
  "body_timeout",
  "queue_full",
  "model_unavailable",
  "deadline_exceeded",
  "unavailable",
  "internal_error",
  "unreachable",
]);

export class Problem extends Error {
  /** retryAfterS: when another try makes sense; null: never. */
  constructor(code, detail, retryAfterS = 1) {
    super(sentence(detail));
    this.code = code;
    this.retryAfterS = WORTH_ANOTHER_TRY.has(code) ? retryAfterS : null;
  }

  /** What to do about it. */
  get advice() {
    const wait = this.retryAfterS > 1 ? `Try again in ${this.retryAfterS} s.` : "";
    return [ADVICE[this.code] ?? "", wait].filter(Boolean).join(" ");
  }
}

/** Read a response that is not 200 as a problem. */
export async function readProblem(response) {
  const body = await response.json().catch(() => ({}));
  const retryAfterS = Number(response.headers.get("retry-after") ?? 1);
  return new Problem(body.code ?? "unknown", body.detail ?? `the service answered ${response.status}`, retryAfterS);
}

export const unreachable = () =>
  new Problem("unreachable", "the service cannot be reached; see whether it still runs, then try again");

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
