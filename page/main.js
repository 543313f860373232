// The page: what people bring goes to the model, what the service does is shown.

import { setCurrent, startCrowd } from "./crowd.js";
import { startDrawing } from "./draw.js";
import { startLive } from "./live.js";
import { predict } from "./predict.js";
import { addCard } from "./results.js";
import { takeImages } from "./take.js";

const AT_ONCE = 4; // a browser opens six connections to a host, and the live figures need one
const waiting = [];
let running = 0;

function onImage(image, name) {
  send({ image, name, card: addCard(image, name) });
}

function send(one) {
  waiting.push(one);
  next();
}

async function next() {
  if (running >= AT_ONCE || waiting.length === 0) return;
  const one = waiting.shift();
  running += 1;
  try {
    one.card.answered(await predict(one.image));
    setCurrent(one.image, one.name);
  } catch (problem) {
    one.card.failed(problem, () => send(one));
  } finally {
    running -= 1;
    next();
  }
}

startDrawing(onImage);
takeImages(onImage);
startCrowd();
startLive();
