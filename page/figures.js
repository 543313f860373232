// Numbers as people read them.

/** Say a time: three digits or so, in the unit that fits. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds >= 1) return `${digits(seconds)} s`;
  return `${digits(seconds * 1000)} ms`;
}

export function percent(share) {
  return `${Number((share * 100).toFixed(2))} %`;
}

/** Say a number with as many places as it deserves. */
export function digits(number) {
  const size = Math.abs(number);
  if (size === 0) return "0";
  if (size < 0.01) return number.toPrecision(1);
  if (size < 10) return number.toFixed(2).replace(/\.?0+$/, "");
  if (size < 100) return number.toFixed(1).replace(/\.0$/, "");
  return Math.round(number).toLocaleString("en");
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
