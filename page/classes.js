// A prediction as classes with scores, whatever its form.

const MOST = 10;
const isNumber = (value) => typeof value === "number";
const isScored = (value) => value !== null && typeof value === "object" && isNumber(value.score);

/** Return {label, score} of each class, in the model's order where all fit, else the best; null: it is none of that. */
export function classesOf(prediction) {
  const list = listOf(prediction);
  if (list === null) return null;
  if (list.length <= MOST) return list;
  return list.toSorted((a, b) => b.score - a.score).slice(0, MOST);
}

function listOf(prediction) {
  const inner = prediction?.scores ?? prediction?.top ?? prediction;
  if (Array.isArray(inner) && inner.length > 1 && inner.every(isNumber)) {
    return inner.map((score, label) => ({ label: String(label), score }));
  }
  if (Array.isArray(inner) && inner.length > 0 && inner.every(isScored)) {
    return inner.map(({ label, score }, place) => ({ label: String(label ?? place), score }));
  }
  return isScored(prediction) ? [{ label: String(prediction.label ?? "score"), score: prediction.score }] : null;
}

/** Return how long each one's bar is, 0 to 1: where the scores are no shares, from the least of them to the most. */
export function barsOf(classes) {
  const scores = classes.map(({ score }) => score);
  const [least, most] = [Math.min(...scores, 0), Math.max(...scores)];
  if (areShares(classes)) return scores;
  return scores.map((score) => (most > least ? (score - least) / (most - least) : 0));
}

export const areShares = (classes) => classes.every(({ score }) => score >= 0 && score <= 1);

export const bestOf = (classes) => classes.reduce((best, one) => (one.score > best.score ? one : best));
