// Strokes of a pen on a canvas, and sample digits made of them. Points are 0..1, x to the right, y down.

const PEN = 0.075;

// Each stroke runs smoothly through its points, here 0..100; a point given twice is a corner.
const DIGITS = [
  "50,2 20,20 12,52 24,86 50,98 78,84 88,50 78,16 50,2",
  "28,24 42,12 54,2 53,2 52,50 52,98",
  "14,24 26,6 52,2 78,14 78,36 54,64 14,97 14,97 50,96 88,97",
  "16,14 44,2 76,12 76,34 44,48 44,48 80,58 84,82 52,98 14,86",
  "66,98 66,50 66,2 66,2 38,36 10,70 10,70 50,70 92,70",
  "80,4 24,4 24,4 20,44 20,44 50,36 80,52 82,80 54,98 14,90",
  "70,2 40,20 18,56 22,86 48,98 78,86 78,62 52,52 24,66",
  "12,6 50,5 88,4 88,4 60,46 40,98",
  "76,16 50,2 24,16 34,40 66,58 80,80 50,98 20,80 36,56 66,38 76,16",
  "76,12 40,4 20,28 40,50 70,36 80,8 80,8 72,98",
];
const STEPS = 8;
const SENT_PIXELS = 280;

/** Return the strokes of a sample digit, in the middle of the sheet. */
export function sampleDigit(digit) {
  const points = DIGITS[digit].split(" ").map((pair) => pair.split(",").map(Number));
  return [smooth(points).map(([x, y]) => ({ x: 0.25 + x * 0.005, y: 0.15 + y * 0.007 }))];
}

/** Run a line through the points (Catmull and Rom, 1974). */
function smooth(points) {
  const ends = [points[0], ...points, points.at(-1)];
  const line = [];
  for (let i = 0; i + 3 < ends.length; i += 1) {
    for (let step = 0; step < STEPS; step += 1) line.push(between(ends.slice(i, i + 4), step / STEPS));
  }
  return [...line, points.at(-1)];
}

function between([a, b, c, d], t) {
  return [0, 1].map(
    (axis) =>
      b[axis] +
      (t * (c[axis] - a[axis])) / 2 +
      (t ** 2 * (2 * a[axis] - 5 * b[axis] + 4 * c[axis] - d[axis])) / 2 +
      (t ** 3 * (3 * b[axis] - a[axis] - 3 * c[axis] + d[axis])) / 2,
  );
}

/** Paint strokes in black on a white sheet. */
export function paint(canvas, strokes) {
  const pen = canvas.getContext("2d");
  const { width, height } = canvas;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  Object.assign(pen, { lineWidth: PEN * width, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
  for (const stroke of strokes) {
    pen.beginPath();
    pen.moveTo(stroke[0].x * width, stroke[0].y * height);
    for (const { x, y } of stroke) pen.lineTo(x * width, y * height);
    pen.stroke();
  }
}

/** Return strokes as an image file. */
export function pngOf(strokes) {
  const sheet = Object.assign(document.createElement("canvas"), { width: SENT_PIXELS, height: SENT_PIXELS });
  paint(sheet, strokes);
  return new Promise((done) => sheet.toBlob(done, "image/png"));
}
