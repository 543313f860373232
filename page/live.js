// The live half of the page: charts, lanes and the word at the top, or that there is no news.

import { startCharts } from "./charts.js";
import { setLimits } from "./crowd.js";
import { byId } from "./dom.js";
import { listen } from "./events.js";
import { showWorkers } from "./lanes.js";
import { offerModels } from "./models.js";

export function startLive() {
  const charts = startCharts();
  const trouble = byId("live-trouble");
  const stale = (is) => document.querySelector(".live").classList.toggle("stale", is);
  listen({
    onLimits: (limits) => {
      setLimits(limits);
      offerModels(limits.models);
      charts.setLargest(limits.max_batch_size);
    },
    onNews: (news) => {
      say(news.ready ? "ready" : "trouble", news.ready ? "ready" : news.problem);
      if (!trouble.hidden || news.time === undefined) charts.gap();
      trouble.hidden = true;
      stale(news.time === undefined); // Redis is away
      if (news.time === undefined) return;
      charts.take(news);
      showWorkers(news);
    },
    onSilence: (problem) => {
      say("waiting", "no live figures");
      trouble.textContent = problem?.message ?? "";
      trouble.hidden = false;
      stale(true);
    },
  });
}

/** Say how the service is; a screen reader hears it only when it changes. */
function say(state, words) {
  const pill = byId("ready");
  pill.dataset.state = state;
  if (pill.textContent !== words) pill.textContent = words;
}
