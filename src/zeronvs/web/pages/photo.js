"use strict";
// The photo page: sends a photograph, shows its estimates, follows the making of its scene.

const element = (id) => document.getElementById(id);
let jobs = [], limits = null, shownKey = "", given = {}, changing = false, drawn = null;

const SLIDERS = {
  fov_deg: { name: "Field of view", low: 15, high: 110, step: 0.5, unit: "\u00b0", digits: 1, help: "Along the shorter side. A phone's main camera has 50\u00b0 to 57\u00b0." },
  elevation_deg: { name: "Looking down by", low: -30, high: 80, step: 0.5, unit: "\u00b0", digits: 1, help: "Puts the horizon where it belongs." },
  scene_scale: { name: "Scale", low: 0.05, high: 2, step: 0.01, unit: "", digits: 2, help: "Moves what the scene turns about nearer or farther." },
};
const STAGES = {
  "look at the photograph": "Looking at the photograph", "first_look.png": "First look",
  "lift the photograph": "Placing its pixels in space", "render views.mp4": "Rendering near views",
  "render orbit.mp4": "Rendering all the way round", "render around.mp4": "Rendering all the way round",
  "export ply": "Writing files", "export html": "Writing files", "write the page": "Writing files",
};

async function ask(method, address, content) {
  const options = { method };
  if (content !== undefined) {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(content);
  }
  const response = await fetch(address, options).catch(() => null);
  if (!response) throw new Error("The server does not answer. Work that was started goes on when it is back.");
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(sentence(answer.error || `the server answered ${response.status}`));
  return answer;
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function complain(text) {
  element("error").hidden = !text;
  element("error").textContent = text || "";
}

// ---------------------------------------------------------------- sending

function send(file) {
  complain("");
  if (!file) return;
  if (limits && file.size > limits.upload_bytes) {
    return complain(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB; at most ${(limits.upload_bytes / 1e6).toFixed(0)} MB are taken here. Use a smaller copy.`);
  }
  const request = new XMLHttpRequest(); // fetch does not tell how much was sent
  request.open("POST", `jobs?title=${encodeURIComponent(file.name)}`);
  request.setRequestHeader("content-type", "application/octet-stream");
  request.upload.onprogress = (event) => {
    element("sent").value = event.loaded / Math.max(1, event.total);
    element("sending-note").textContent = event.loaded < event.total ? "Sending\u2026" : "Sent.";
  };
  request.onloadend = () => {
    element("sending").hidden = true;
    let answer = {};
    try { answer = JSON.parse(request.responseText); } catch (error) { /* no answer of ours */ }
    if (request.status === 201) return show(answer.id);
    complain(sentence(answer.error || "the photograph could not be sent; is the server still running?"));
  };
  element("sending").hidden = false;
  element("sent").value = 0;
  element("sending-note").textContent = "Sending\u2026";
  request.send(file);
}

// ---------------------------------------------------------------- which job is shown

const chosen = () => jobs.find((job) => job.id === location.hash.slice(1));

function show(id) {
  changing = false;
  if (location.hash.slice(1) === id) refresh();
  else location.hash = id;
}

let polling = 0;
async function refresh() {
  const turn = ++polling;
  try {
    const answer = await ask("GET", "jobs");
    if (turn !== polling) return;
    if (!limits) {
      limits = answer;
      element("limits").textContent = `JPEG, PNG, WebP or HEIC, up to ${(limits.upload_bytes / 1e6).toFixed(0)} MB and ${(limits.photo_px / 1e6).toFixed(0)} megapixels`;
    }
    jobs = answer.jobs;
    if (element("error").dataset.lost) {
      delete element("error").dataset.lost;
      complain("");
    }
    paint();
  } catch (error) {
    if (turn !== polling) return;
    element("error").dataset.lost = "1";
    complain(error.message);
  }
  const busy = jobs.some((job) => ["estimating", "queued", "running"].includes(job.state));
  setTimeout(() => { if (turn === polling) refresh(); }, document.hidden ? 5000 : busy ? 600 : 4000);
}

// ---------------------------------------------------------------- painting

function paint() {
  const job = chosen();
  element("send").hidden = Boolean(job);
  element("another").hidden = !job;
  element("job").hidden = !job;
  paintList();
  if (!job) { shownKey = ""; return; }
  const key = `${job.id} ${job.state} ${changing}`, isNew = key !== shownKey, isOther = !shownKey.startsWith(job.id);
  shownKey = key;
  const making = job.state === "queued" || job.state === "running";
  const asks = Boolean(job.estimate) && (["ready", "failed", "cancelled"].includes(job.state) || changing) && !making;
  element("title").textContent = job.title;
  element("state").textContent = stateText(job);
  element("estimates").hidden = !asks;
  element("working").hidden = !(making || job.state === "estimating");
  element("preview").hidden = element("cancel").hidden = !making;
  element("finished").hidden = job.state !== "done" || changing;
  element("again").hidden = job.state !== "done" || changing;
  if (making || job.state === "estimating") paintProgress(job);
  if (isOther) {
    given = { ...job.settings };
    element("title").focus({ preventScroll: true });
  }
  if (isNew && asks) paintEstimates(job);
  if (isNew && making) paintPreview(job);
  if (isNew && job.state === "done") paintScene(job);
}

function stateText(job) {
  const ahead = job.task ? job.task.ahead : 0;
  return {
    estimating: "Estimating the camera: some seconds.",
    ready: "The camera is estimated. Make the scene, or correct the estimates first.",
    queued: ahead ? `Waiting: ${ahead} before this one. The scene is made as soon as it is your turn.` : "Waiting for its turn.",
    running: job.began_at ? `Making the scene, for ${duration(Date.now() / 1000 - job.began_at)} now.` : "Making the scene.",
    done: changing ? "Making it again replaces the scene." : "The scene is finished.",
    failed: `It did not work: ${job.message}.`.replace(/\.\.$/, "."),
    cancelled: "Cancelled. You can make the scene again.",
  }[job.state];
}

function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

function paintProgress(job) {
  const task = job.task || {}, bar = element("bar");
  if (job.state === "running" && task.total) bar.value = task.step / task.total;
  else bar.removeAttribute("value");
  const steps = task.total > 1 ? `: ${task.step} of ${task.total}` : "";
  element("stage").textContent = job.state === "running" && task.stage ? (STAGES[task.stage] || task.stage) + steps : "";
}

function paintPreview(job) {
  const image = new Image();
  image.onload = () => {
    element("preview").style.aspectRatio = `${image.naturalWidth / 3} / ${image.naturalHeight}`;
    element("preview").style.backgroundImage = `url("${image.src}")`;
  };
  image.src = `jobs/${job.id}/files/first_look.png`;
}

function paintScene(job) {
  element("look").href = `scenes/${job.id}/`;
  element("download").href = `jobs/${job.id}/scene.zip`;
  element("film").src = `jobs/${job.id}/files/scene/views.mp4?${job.began_at}`;
}

function paintList() {
  element("mine").hidden = jobs.length === 0;
  const list = element("list"), old = new Map([...list.children].map((item) => [item.dataset.id, item]));
  const items = jobs.map((job) => {
    const item = old.get(job.id) || listItem(job.id);
    const [image, name, state] = item.firstChild.children;
    if (!image.getAttribute("src") && job.files.includes("photo.jpg")) image.src = `jobs/${job.id}/files/photo.jpg`;
    name.textContent = job.title;
    state.textContent = { estimating: "estimating", ready: "not made yet", queued: "waiting", running: "being made", done: "finished", failed: "failed", cancelled: "cancelled" }[job.state];
    item.firstChild.setAttribute("aria-current", String(job.id === location.hash.slice(1)));
    return item;
  });
  if (items.length !== list.children.length || items.some((item, k) => item !== list.children[k])) list.replaceChildren(...items);
}

function listItem(id) {
  const item = document.createElement("li"), link = document.createElement("a");
  const image = new Image(), name = document.createElement("span"), state = document.createElement("span");
  item.dataset.id = id;
  link.href = `#${id}`;
  image.alt = "";
  image.className = "thumb";
  name.className = "name";
  state.className = "small";
  link.append(image, name, state);
  item.append(link);
  return item;
}

// ---------------------------------------------------------------- estimates and what they mean

function paintEstimates(job) {
  element("photo").src = `jobs/${job.id}/files/photo.jpg`;
  element("sliders").replaceChildren(...Object.keys(SLIDERS).map((name) => slider(job, name)));
  element("notes").replaceChildren(...job.estimate.notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  drawn = { job, depth: null };
  const image = new Image(), mine = drawn;
  image.onload = () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    mine.depth = pen.getImageData(0, 0, canvas.width, canvas.height);
    drawOverlay();
  };
  image.src = `jobs/${job.id}/files/depth.png`;
}

const valueOf = (job, name) => given[name] ?? job.estimate[name].value;

function slider(job, name) {
  const { name: label, low, high, step, unit, digits, help } = SLIDERS[name], estimate = job.estimate[name];
  const box = document.createElement("div");
  box.className = "slider";
  box.innerHTML = `<label class="head" for="${name}"><span></span><output for="${name}"></output></label>
    <input type="range" id="${name}" aria-describedby="${name}-help"><div class="foot"><span id="${name}-help"></span><button type="button">As estimated</button></div>`;
  const input = box.querySelector("input"), reset = box.querySelector("button"), text = (value) => value.toFixed(digits) + unit;
  box.querySelector("span").textContent = label;
  box.querySelector(".foot span").textContent = `Estimated: ${text(estimate.value)} \u00b1 ${text(estimate.spread)} (${estimate.source}). ${help}`;
  Object.assign(input, { min: Math.min(low, estimate.value), max: Math.max(high, estimate.value), step: "any", value: valueOf(job, name) });
  const update = () => {
    box.querySelector("output").textContent = text(valueOf(job, name));
    input.setAttribute("aria-valuetext", text(valueOf(job, name)));
    reset.disabled = (given[name] ?? null) === null;
    drawOverlay();
  };
  input.addEventListener("input", () => {
    given[name] = Math.round(input.value / step) * step;
    update();
  });
  input.addEventListener("keydown", (event) => { // "any" would make a hundredth of the range a step
    const sign = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!sign) return;
    event.preventDefault();
    input.value = valueOf(job, name) + sign * step;
    input.dispatchEvent(new Event("input"));
  });
  reset.addEventListener("click", () => {
    given[name] = null;
    input.value = estimate.value;
    update();
    input.focus();
  });
  update();
  return box;
}

function drawOverlay() {
  const photo = element("photo"), canvas = element("overlay"), mode = document.querySelector("[name=over]:checked").value;
  if (!drawn || !photo.naturalWidth) return;
  const finer = Math.max(1, 1000 / Math.max(photo.naturalWidth, photo.naturalHeight)); // lines stay thin
  const [width, height] = [photo.naturalWidth, photo.naturalHeight].map((side) => Math.round(side * finer));
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d"), { job, depth } = drawn;
  if (mode === "nothing") return;
  if (mode === "depth") return depth && paintDepth(pen, depth, (share) => [...depthColor(share), 255]);
  const scale = valueOf(job, "scene_scale") / job.estimate.scene_scale.value, [near, far] = job.estimate.depth_range;
  if (depth) {
    paintDepth(pen, depth, (share) => {
      const distance = near * (far / near) ** share * scale;
      return [255, 179, 0, Math.abs(Math.log(distance)) < 0.05 ? 90 : 0];
    });
  }
  drawGround(pen, width, height, valueOf(job, "fov_deg"), valueOf(job, "elevation_deg"));
}

function paintDepth(pen, depth, colorOf) {
  const small = Object.assign(document.createElement("canvas"), { width: depth.width, height: depth.height });
  const pixels = new ImageData(depth.width, depth.height);
  for (let k = 0; k < depth.data.length; k += 4) pixels.data.set(colorOf(depth.data[k] / 255), k);
  small.getContext("2d").putImageData(pixels, 0, 0);
  pen.drawImage(small, 0, 0, pen.canvas.width, pen.canvas.height);
}

function depthColor(share) { // yellow near, violet far; most of a scene lies between 0.4 and 0.9
  const nearness = 1 - Math.min(1, Math.max(0, (share - 0.3) / 0.5));
  const mix = (a, b, t) => a.map((value, k) => 255 * (value + t * (b[k] - value)));
  const [far, middle, near] = [[0.27, 0, 0.33], [0.13, 0.57, 0.55], [0.99, 0.91, 0.14]];
  return nearness < 0.5 ? mix(far, middle, 2 * nearness) : mix(middle, near, 2 * nearness - 1);
}

// The camera of zeronvs.recipes.prepare.canonical_camera: at distance 1, looking at the origin.
function drawGround(pen, width, height, fov_deg, elevation_deg) {
  const radians = Math.PI / 180, angle = elevation_deg * radians, level = -0.25;
  const focal = 0.5 * Math.min(width, height) / Math.tan(0.5 * fov_deg * radians);
  const [s, c] = [Math.sin(angle), Math.cos(angle)], thin = Math.max(width, height) / 500;
  function inView(x, y) { // right, up, ahead of a point of the ground
    const [dx, dz] = [x - c, level - s];
    return [y, -s * dx + c * dz, -c * dx - s * dz];
  }
  function segment(p, q) {
    const near = 0.05;
    if (p[2] < near && q[2] < near) return;
    if (p[2] < near) [p, q] = [q, p];
    if (q[2] < near) q = q.map((value, k) => p[k] + (value - p[k]) * (near - p[2]) / (q[2] - p[2]));
    pen.moveTo(width / 2 + focal * p[0] / p[2], height / 2 - focal * p[1] / p[2]);
    pen.lineTo(width / 2 + focal * q[0] / q[2], height / 2 - focal * q[1] / q[2]);
  }
  pen.lineWidth = thin;
  pen.strokeStyle = "rgb(77 180 255 / 65%)";
  pen.beginPath();
  for (let k = -12; k <= 12; k++) {
    segment(inView(c, k / 4), inView(-5, k / 4));
    if (k <= 4) segment(inView(k / 4, -3), inView(k / 4, 3));
  }
  pen.stroke();
  const row = height / 2 - focal * Math.tan(angle);
  element("horizon-key").textContent = row < 0 ? "horizon: above the photograph" : row > height ? "horizon: below the photograph" : "horizon";
  pen.lineWidth = 2.5 * thin;
  pen.strokeStyle = "#ff401a";
  pen.beginPath();
  pen.moveTo(0, row);
  pen.lineTo(width, row);
  pen.stroke();
}

// ---------------------------------------------------------------- what the visitor does

async function act(work) {
  complain("");
  try {
    await work(chosen());
  } catch (error) {
    complain(error.message);
  }
  refresh();
}

const on = (id, type, listener) => element(id).addEventListener(type, listener);
for (const id of ["choose", "camera"]) {
  on(id, "change", (event) => { send(event.target.files[0]); event.target.value = ""; });
}
on("drop", "dragenter", () => element("drop").classList.add("over"));
for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
addEventListener("dragover", (event) => element("drop").classList.toggle("over", element("drop").contains(event.target)));
addEventListener("drop", (event) => {
  element("drop").classList.remove("over");
  send(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => { if (event.clipboardData.files.length) send(event.clipboardData.files[0]); });
addEventListener("hashchange", () => { changing = false; complain(""); refresh(); });
addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
on("another", "click", () => { location.hash = ""; });
on("photo", "load", drawOverlay);
for (const radio of document.querySelectorAll("[name=over]")) radio.addEventListener("change", drawOverlay);
on("start", "click", () => act(async (job) => {
  element("start").disabled = true;
  try {
    await ask("POST", `jobs/${job.id}/start`, given);
    changing = false;
  } finally {
    element("start").disabled = false;
  }
}));
on("cancel", "click", () => act((job) => ask("POST", `jobs/${job.id}/cancel`)));
on("again", "click", () => { changing = true; paint(); });
on("delete", "click", () => {
  if (!confirm(`Delete "${chosen().title}" and everything made of it?`)) return;
  act(async (job) => {
    await ask("DELETE", `jobs/${job.id}`);
    location.hash = "";
  });
});
refresh();
