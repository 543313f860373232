// The news of the service as it comes, while somebody looks at the page.

import { at } from "./models.js";
import { readProblem, unreachable } from "./problems.js";

const AGAIN_S = 3;
const STALE_S = 1.5;

/** Ask why there are no events: an EventSource does not tell. */
async function reason() {
  const cut = new AbortController();
  try {
    const response = await fetch(at("events"), { signal: cut.signal });
    return response.ok ? undefined : await readProblem(response);
  } catch {
    return unreachable();
  } finally {
    cut.abort();
  }
}

/** Listen: `onLimits(limits)` comes first, `onNews(news)` each time, `onSilence(problem)` when there is none for a while. */
export function listen({ onNews, onLimits, onSilence }) {
  let source = null;
  let silence = null;

  function heard() {
    clearTimeout(silence);
    silence = setTimeout(() => onSilence(unreachable()), STALE_S * 1000);
  }
  function open() {
    if (source !== null || document.hidden) return;
    heard();
    source = new EventSource(at("events"));
    source.addEventListener("limits", ({ data }) => onLimits(JSON.parse(data)));
    source.addEventListener("message", ({ data }) => {
      heard();
      onNews(JSON.parse(data));
    });
    source.addEventListener("error", async () => {
      if (source?.readyState !== EventSource.CLOSED) return; // the browser itself tries again
      close();
      const problem = await reason();
      onSilence(problem);
      if (problem?.code !== "not_found") setTimeout(open, AGAIN_S * 1000); // else nothing is counted there
    });
  }
  function close() {
    clearTimeout(silence);
    source?.close();
    source = null;
  }

  // A hidden page holds no connection: a browser has six for a host, for all its windows.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
}
