// Which of several models the page is about: the one that its address names (`?model=photos`), else the default one.

import { byId } from "./dom.js";

const chosen = new URLSearchParams(location.search).get("model");

/** Return where a route of the service has the chosen model. */
export function at(route) {
  return chosen === null ? route : `${route}/${encodeURIComponent(chosen)}`;
}

/** Offer the models, the default one first, where there are several. */
export function offerModels(names) {
  if (names.length < 2) return;
  const choice = byId("model");
  choice.replaceChildren(...names.map((name) => new Option(name, name, false, name === (chosen ?? names[0]))));
  choice.onchange = () => (location.search = `?model=${encodeURIComponent(choice.value)}`);
  byId("models").hidden = false;
}
