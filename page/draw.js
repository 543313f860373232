// The sheet to draw on, with a mouse, a finger or a pen; from the keyboard, sample digits are put on it.

import { byId, make } from "./dom.js";
import { plural } from "./figures.js";
import { paint, pngOf, sampleDigit } from "./strokes.js";

const sheet = byId("sheet");
let strokes = [];
let drawing = null; // the id of the pointer that is down
let name = "drawing";

/** Let people draw; `onImage(blob, name)` is called when they ask for a prediction. */
export function startDrawing(onImage) {
  sheet.addEventListener("pointerdown", begin);
  sheet.addEventListener("pointermove", go);
  for (const end of ["pointerup", "pointercancel"]) sheet.addEventListener(end, () => (drawing = null));
  byId("undo").addEventListener("click", () => show(strokes.slice(0, -1)));
  byId("clear").addEventListener("click", () => show([]));
  byId("predict-drawing").addEventListener("click", async () => onImage(await pngOf(strokes), name));
  for (let digit = 0; digit < 10; digit += 1) byId("samples").append(sampleButton(digit));
  show([]);
}

function sampleButton(digit) {
  const button = make("button", { type: "button", textContent: digit, aria: { label: `Sample digit ${digit}` } });
  button.addEventListener("click", () => show(sampleDigit(digit), `sample ${digit}`));
  return button;
}

function begin(event) {
  if (event.button !== 0 || drawing !== null) return;
  event.preventDefault();
  sheet.setPointerCapture(event.pointerId);
  drawing = event.pointerId;
  show([...strokes, [place(event)]]);
}

function go(event) {
  if (event.pointerId !== drawing) return;
  const passed = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(passed.length ? passed : [event]).map(place));
  paint(sheet, strokes);
}

function place({ clientX, clientY }) {
  const { left, top, width, height } = sheet.getBoundingClientRect();
  return { x: (clientX - left) / width, y: (clientY - top) / height };
}

function show(wanted, called = "drawing") {
  strokes = wanted;
  name = called;
  paint(sheet, strokes);
  const empty = strokes.length === 0;
  byId("sheet-hint").hidden = !empty;
  for (const id of ["undo", "clear", "predict-drawing"]) byId(id).disabled = empty;
  const what = called === "drawing" ? plural(strokes.length, "stroke") : called;
  sheet.setAttribute("aria-label", empty ? "Drawing: empty" : `Drawing: ${what}`);
}
