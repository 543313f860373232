// What the model said of each image: a card with its classes, its wait and its batch.

import { areShares, barsOf, bestOf, classesOf } from "./classes.js";
import { byId, make } from "./dom.js";
import { digits, duration, percent } from "./figures.js";

const MOST_CARDS = 24;
const PARTS = ["decode", "queue", "model"];

/** Add a card for an image that is on its way; returns what shows its answer or its problem. */
export function addCard(image, name) {
  byId("no-results").hidden = true;
  const card = make("li", { className: "result" });
  const told = make("div", { className: "told" }, make("p", { className: "muted", textContent: "waiting …" }));
  card.append(thumbnail(image, name), told);
  byId("results").prepend(card);
  forgetOld();
  return {
    answered: (answer) => tell(told, name, answer),
    failed: (problem, again) => complain(told, name, problem, again),
  };
}

function thumbnail(image, name) {
  const url = URL.createObjectURL(image);
  const picture = make("img", { src: url, alt: name, title: name });
  for (const end of ["load", "error"]) picture.addEventListener(end, () => URL.revokeObjectURL(url));
  picture.addEventListener("error", () =>
    picture.replaceWith(make("span", { className: "no-picture", textContent: name })),
  );
  return picture;
}

function forgetOld() {
  const cards = byId("results").children;
  while (cards.length > MOST_CARDS) cards[cards.length - 1].remove();
}

function tell(told, name, { prediction, timing, batchSize }) {
  const classes = classesOf(prediction);
  told.replaceChildren(
    make(
      "div",
      { className: "row headline" },
      classes && headline(classes),
      make("span", { className: "batch", textContent: company(batchSize) }),
    ),
    classes ? classBars(classes) : make("pre", { tabIndex: 0, textContent: JSON.stringify(prediction, null, 2) }),
    ...waitSplit(timing),
  );
  const best = classes && bestOf(classes);
  byId("said").textContent = `${name}: ${best ? `${best.label}, ${score(best, classes)}` : "predicted"}`;
}

const company = (size) => (size === 1 ? "went to the model alone" : `rode in a batch of ${size}`);
const score = (one, classes) => (areShares(classes) ? percent(one.score) : digits(one.score));

function headline(classes) {
  const best = bestOf(classes);
  return make("p", { className: "best" }, make("strong", { textContent: best.label }), ` ${score(best, classes)}`);
}

function classBars(classes) {
  const best = bestOf(classes);
  const bars = barsOf(classes);
  const rows = classes.map((one, place) => {
    const bar = make("span", { className: "bar", aria: { hidden: "true" } });
    bar.style.setProperty("--share", bars[place]);
    const label = make("span", { className: "label", textContent: one.label, title: one.label });
    const value = make("span", { className: "value", textContent: score(one, classes) });
    return make("li", { className: one === best ? "class top" : "class" }, label, bar, value);
  });
  return make("ol", { className: rows.length > 5 ? "classes two" : "classes", aria: { label: "Classes" } }, ...rows);
}

/** Show the wait as one bar in its parts, and say it in words. */
function waitSplit(timing) {
  const total = timing.total ?? 0;
  const known = PARTS.map((part) => [part, timing[part] ?? 0]);
  const other = Math.max(0, total - known.reduce((sum, [, seconds]) => sum + seconds, 0));
  const parts = [...known, ["other", other]];
  const bar = make(
    "div",
    { className: "wait", aria: { hidden: "true" } },
    ...parts.map(([part, seconds]) => {
      const piece = make("span", { data: { part } });
      piece.style.flexGrow = 100 * (seconds / total || 0);
      return piece;
    }),
  );
  const words = parts.map(([part, seconds]) =>
    make("span", { data: { part }, textContent: `${part} ${duration(seconds)}` }),
  );
  return [
    bar,
    make("p", { className: "wait-words" }, ...words, make("span", { textContent: `total ${duration(total)}` })),
  ];
}

function complain(told, name, problem, again) {
  const line = make(
    "p",
    { className: "problem" },
    make("strong", { textContent: problem.message }),
    ` ${problem.advice}`,
  );
  told.replaceChildren(make("p", { className: "muted", textContent: name }), line);
  if (problem.retryAfterS !== null) told.append(retryButton(problem.retryAfterS, again));
  byId("said").textContent = `${name}: ${problem.message} ${problem.advice}`;
}

/** Make a button that can be pressed once it makes sense. */
function retryButton(afterS, again) {
  const button = make("button", { type: "button", textContent: "Try again", disabled: true });
  setTimeout(() => (button.disabled = false), Math.min(afterS, 60) * 1000);
  button.addEventListener("click", again);
  return button;
}
