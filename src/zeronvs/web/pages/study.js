"use strict";
// The page of a study. What is answered is on the server; the rest is where the participant is.

const element = (id) => document.getElementById(id);
const SETTLE_MS = 400; // a double tap must not answer the next question, too
let study = null, position = -1, shownTrial = -1, ready = false, busy = false, paused = false, since = 0;

async function ask(method, address, content) {
  const options = { method };
  if (content !== undefined) {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(content);
  }
  const response = await fetch(address, options).catch(() => null);
  if (!response) throw new Error("The server does not answer.");
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server answered ${response.status}.`);
  return answer;
}

function complain(text) {
  element("error").hidden = !text;
  element("error").textContent = text || "";
}

// ---------------------------------------------------------------- where the participant is

const videos = () => [element("video1"), element("video2")];
const count = () => study.trials.length * study.questions.length;
const trialOf = (place) => Math.floor(place / study.questions.length);
const keyOf = (place) => study.questions[place % study.questions.length].key;
const answerOf = (place) => study.trials[trialOf(place)].answers[keyOf(place)];
const places = () => [...Array(count()).keys()];
const answered = () => places().filter((place) => answerOf(place)).length;

function firstOpen() {
  const open = places().find((place) => !answerOf(place));
  return open === undefined ? count() : open;
}

function show(place) {
  position = place;
  since = performance.now();
  const done = place >= count();
  element("welcome").hidden = true;
  element("trial").hidden = done;
  element("thanks").hidden = !done;
  if (done) {
    videos().forEach((video) => video.pause());
    element("saved").textContent = `All ${count()} answers are saved.`;
    return;
  }
  const trial = trialOf(place), total = study.trials.length;
  if (trial !== shownTrial) load(trial);
  element("bar").max = count();
  element("bar").value = answered();
  element("where").textContent = `Pair ${trial + 1} of ${total}, question ${place % study.questions.length + 1} of ${study.questions.length}`;
  element("question").textContent = study.questions[place % study.questions.length].text;
  element("back").disabled = place === 0;
  for (const number of [1, 2]) {
    element(`choose${number}`).setAttribute("aria-pressed", answerOf(place) === number);
  }
  enable();
}

function enable() {
  for (const number of [1, 2]) element(`choose${number}`).disabled = !ready || busy;
}

// ---------------------------------------------------------------- videos, in step

function load(trial) {
  shownTrial = trial;
  ready = paused = false;
  element("note").textContent = "Loading\u2026";
  videos().forEach((video, k) => {
    video.src = study.trials[trial].videos[k];
    video.load();
  });
}

function loaded() {
  if (ready || !videos().every((video) => video.readyState >= 2)) return;
  ready = true;
  element("note").textContent = "";
  enable();
  play();
}

async function play() {
  paused = false;
  const begun = await Promise.allSettled(videos().map((video) => video.play()));
  if (begun.some((one) => one.status === "rejected" && one.reason.name === "NotAllowedError")) {
    paused = true;
    element("note").textContent = "Tap a video to play both.";
  }
}

function pause() {
  if (!ready) return;
  element("note").textContent = paused ? "" : "Paused. Tap a video to go on.";
  if (paused) return play();
  paused = true;
  videos().forEach((video) => video.pause());
}

function ended() {
  if (!videos().every((video) => video.ended)) return;
  videos().forEach((video) => { video.currentTime = 0; });
  play();
}

videos().forEach((video) => {
  video.addEventListener("loadeddata", loaded);
  video.addEventListener("ended", ended);
  video.addEventListener("click", pause);
  video.addEventListener("error", () => {
    if (video.getAttribute("src")) complain("A video could not be loaded. Reload the page; your answers are saved.");
  });
});

// ---------------------------------------------------------------- answers

async function choose(number) {
  if (busy || !ready || element("trial").hidden || performance.now() - since < SETTLE_MS) return;
  busy = true;
  enable();
  const place = position;
  try {
    await ask("POST", "answers", { trial: trialOf(place), question: keyOf(place), video: number });
    complain("");
    study.trials[trialOf(place)].answers[keyOf(place)] = number;
    busy = false;
    show(firstOpen());
  } catch (error) {
    busy = false;
    enable();
    complain(`${error.message} This answer is not saved yet; choose again.`);
  }
}

function back() {
  if (busy || position <= 0) return;
  show(position - 1);
}

async function another() {
  try {
    await ask("POST", "participants", {});
    location.reload();
  } catch (error) {
    complain(error.message);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || position < 0) return;
  const actions = {
    "1": () => choose(1), ArrowLeft: () => choose(1), "2": () => choose(2), ArrowRight: () => choose(2),
    Backspace: back, p: pause, P: pause,
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});

element("choose1").addEventListener("click", () => choose(1));
element("choose2").addEventListener("click", () => choose(2));
element("back").addEventListener("click", back);
element("again").addEventListener("click", back);
element("another").addEventListener("click", another);
element("start").addEventListener("click", () => show(firstOpen()));

ask("GET", "trials").then((found) => {
  study = found;
  const pairs = study.trials.length === 1 ? "one pair of videos" : `${study.trials.length} pairs of videos`;
  element("amount").textContent = `You will see ${pairs} and answer ${study.questions.length} questions about each.`;
  if (answered()) show(firstOpen());
  else element("welcome").hidden = false;
}, (error) => complain(error.message));
