// Images that are dropped, pasted or chosen.

import { byId } from "./dom.js";

/** Call `onImage(file, name)` for each image that somebody brings. */
export function takeImages(onImage) {
  const take = (files) => [...files].forEach((file) => onImage(file, file.name || "pasted image"));
  takeChosen(take);
  takeDropped(take);
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData?.files ?? []));
}

function takeChosen(take) {
  const input = byId("files");
  byId("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
}

/** Take them wherever they fall: beside the place for them, a browser would leave the page for the file. */
function takeDropped(take) {
  const place = byId("drop");
  const isOver = (over) => place.classList.toggle("over", over);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    isOver(event.dataTransfer.types.includes("Files"));
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? isOver(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    isOver(false);
    take(event.dataTransfer.files);
  });
}
