"use strict";
// Controls of a served scene: views, cameras, paths, recording, videos. Runs after page.js, whose
// camera and drawing it uses. A row is a camera as 13 numbers: 3x4 camera-to-world, field of view.
{
  const data = JSON.parse(element("panel-data").textContent);
  const RATE = data.frames_per_second, LONGEST_SECONDS = 30, UNSAVED = "recorded, not saved";
  const paths = new Map(Object.entries(data.paths));

  const cameraOf = (r) => ({
    axes: [0, 1, 2].map((k) => [r[k], r[4 + k], r[8 + k]]), eye: [r[3], r[7], r[11]], fov_y_rad: r[12],
  });
  const rowOf = ({ axes, eye, fov_y_rad }) =>
    [0, 1, 2].flatMap((k) => [axes[0][k], axes[1][k], axes[2][k], eye[k]]).concat(fov_y_rad);
  const current = () => directed || { ...cameraAt(shown, [0, 0]), fov_y_rad: config.fov_y_rad };
  const unit = (v) => v.map((value) => value / Math.max(1e-9, Math.hypot(...v)));
  const cross = (a, b) => [0, 1, 2].map((k) => a[(k + 1) % 3] * b[(k + 2) % 3] - a[(k + 2) % 3] * b[(k + 1) % 3]);

  function between(first, second, share) { // a camera between two rows that are near each other
    const row = first.map((value, k) => value + share * (second[k] - value));
    const { axes, eye, fov_y_rad } = cameraOf(row);
    const back = unit(axes[2]), right = unit(cross(axes[1], back));
    return { axes: [right, cross(back, right), back], eye, fov_y_rad };
  }

  async function ask(method, address, content) {
    const options = { method };
    if (content !== undefined) {
      options.headers = { "content-type": "application/json" };
      options.body = JSON.stringify(content);
    }
    const response = await fetch(address, options).catch(() => null);
    if (!response) throw new Error("The server does not answer. Is it still running?");
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.error || `The server answered ${response.status}.`);
    return answer;
  }

  // ---------------------------------------------------------------- lines over the scene

  const lines = element("frusta"), pen = lines.getContext("2d");
  const shows = { cameras: false, frame: false };

  function drawLines() {
    const ratio = Math.min(2, devicePixelRatio || 1);
    lines.width = Math.round(innerWidth * ratio);
    lines.height = Math.round(innerHeight * ratio);
    if (!shows.cameras && !shows.frame) return;
    pen.scale(ratio, ratio);
    const { axes, eye } = current(), focal = focalOver(innerHeight), near = 0.02;
    const inView = (p) => axes.map((axis) => dot(plus(p, eye, -1), axis));
    function segment(p, q) {
      let a = inView(p), b = inView(q);
      if (a[2] > -near && b[2] > -near) return;
      if (a[2] > -near) [a, b] = [b, a];
      if (b[2] > -near) b = plus(a, plus(b, a, -1), (-near - a[2]) / (b[2] - a[2]));
      for (const [k, [x, y, z]] of [a, b].entries()) {
        pen[k ? "lineTo" : "moveTo"](innerWidth / 2 - focal * x / z, innerHeight / 2 + focal * y / z);
      }
    }
    function frustum(row, size) {
      const camera = cameraOf(row), half = size * Math.tan(0.5 * camera.fov_y_rad);
      const corner = (x, y) => plus(plus(plus(camera.eye, camera.axes[0], x * half * data.aspect),
        camera.axes[1], y * half), camera.axes[2], -size);
      const corners = [corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1)];
      corners.forEach((point, k) => {
        segment(camera.eye, point);
        segment(point, corners[(k + 1) % 4]);
      });
    }
    function stroke(color, width, draw) {
      pen.beginPath();
      draw();
      pen.lineWidth = width;
      pen.strokeStyle = color;
      pen.stroke();
    }
    if (shows.cameras) {
      const path = paths.get(element("paths").value) || [];
      stroke("rgb(120 200 255 / 90%)", 2, () => {
        for (let k = 1; k < path.length; k++) segment(cameraOf(path[k - 1]).eye, cameraOf(path[k]).eye);
      });
      stroke("rgb(120 200 255 / 70%)", 1, () => {
        for (let k = 0; k < path.length; k += Math.ceil(path.length / 12)) frustum(path[k], 0.05);
      });
      stroke("rgb(243 189 107 / 90%)", 1.5, () => data.views.forEach((row) => frustum(row, 0.05)));
      stroke("#fff", 2, () => frustum(rowOf({ axes: photo.slice(0, 3), eye: photo[3], fov_y_rad: config.fov_y_rad }), 0.08));
    }
    if (shows.frame) {
      const height = framing() * innerHeight, width = height * data.aspect;
      const [x, y] = [(innerWidth - width) / 2, (innerHeight - height) / 2];
      pen.fillStyle = "rgb(0 0 0 / 45%)";
      pen.beginPath();
      pen.rect(0, 0, innerWidth, innerHeight);
      pen.rect(x, y, width, height);
      pen.fill("evenodd");
      stroke("#fff", 1, () => pen.rect(x, y, width, height));
    }
  }

  // ---------------------------------------------------------------- playing and recording

  let playing = null, recording = null;

  function play(rows) {
    const began = performance.now();
    const step = (now) => {
      if (playing !== step) return;
      if (directed !== step.camera) return stop(); // the visitor has taken over
      const at = ((now - began) / 1000 * RATE) % rows.length, k = Math.floor(Math.max(0, at));
      step.camera = between(rows[k], rows[Math.min(k + 1, rows.length - 1)], at - k);
      direct(step.camera);
      requestAnimationFrame(step);
    };
    step.camera = cameraOf(rows[0]);
    playing = step;
    direct(step.camera);
    element("play").textContent = "Stop";
    requestAnimationFrame(step);
  }

  function stop() {
    playing = null;
    element("play").textContent = "Play";
  }

  function recordFrom() {
    const moves = [];
    const step = (now) => {
      if (recording !== step) return;
      moves.push([now / 1000, rowOf(current())]);
      const seconds = (now / 1000 - moves[0][0]);
      element("record-note").textContent = `Recording: ${seconds.toFixed(1)} s. Move through the scene; press Stop when done.`;
      if (seconds > LONGEST_SECONDS) return endRecording();
      requestAnimationFrame(step);
    };
    step.moves = moves;
    recording = step;
    requestAnimationFrame(step);
    element("record").textContent = "Stop";
    element("record").classList.add("active");
  }

  function endRecording() {
    const rows = evenly(recording.moves);
    recording = null;
    element("record").textContent = "Record";
    element("record").classList.remove("active");
    if (rows.length < 2) {
      element("record-note").textContent = "Nothing moved, so nothing was recorded. Press Record, then drag the scene.";
      return;
    }
    paths.set(UNSAVED, rows);
    listPaths(UNSAVED);
    element("save").disabled = false;
    element("record-note").textContent = `Recorded ${(rows.length / RATE).toFixed(1)} s, ${rows.length} frames. Save it, or press Play to see it.`;
  }

  function evenly(moves) { // at the frame rate, without the rest before the first move and after the last
    const same = (a, b) => a.every((value, k) => Math.abs(value - b[k]) < 1e-5);
    let first = 0, last = moves.length - 1;
    while (first < last && same(moves[first][1], moves[first + 1][1])) first++;
    while (last > first && same(moves[last][1], moves[last - 1][1])) last--;
    const rows = [];
    if (first >= last) return rows;
    for (let time = moves[first][0], k = first; time <= moves[last][0]; time += 1 / RATE) {
      while (k < last - 1 && moves[k + 1][0] < time) k++;
      const [[from, a], [to, b]] = [moves[k], moves[k + 1]];
      rows.push(rowOf(between(a, b, Math.min(1, (time - from) / Math.max(1e-6, to - from)))));
    }
    return rows;
  }

  async function save() {
    const [height, width] = data.size_px;
    const frames = paths.get(UNSAVED).map((row) => ({
      camera_to_world: [...row.slice(0, 12), 0, 0, 0, 1], fov: row[12] * 180 / Math.PI, aspect: data.aspect,
    }));
    const { name } = await ask("POST", "paths", { render_height: height, render_width: width, fps: RATE, camera_path: frames });
    paths.set(name, paths.get(UNSAVED));
    paths.delete(UNSAVED);
    element("save").disabled = true;
    element("record-note").textContent = `Saved as ${name}, in the folder paths of the scene.`;
    listPaths(name);
    return name;
  }

  async function loadSaved() {
    for (const name of (await ask("GET", "paths")).paths) {
      const content = await ask("GET", `paths/${name}.json`);
      paths.set(name, content.camera_path.map((frame) => [...frame.camera_to_world.slice(0, 12), frame.fov * Math.PI / 180]));
    }
    listPaths(element("paths").value);
  }

  function listPaths(chosen) {
    element("paths").replaceChildren(...[...paths.keys()].map((name) => new Option(name, name)));
    element("paths").value = chosen || paths.keys().next().value;
    choosePath();
  }

  // ---------------------------------------------------------------- videos

  let followed = null;

  function choosePath() {
    const name = element("paths").value, isSaved = /^path_\d+$/.test(name);
    if (playing) stop();
    followed = null;
    element("path-link").hidden = !isSaved;
    element("path-link").href = `paths/${name}.json`;
    showVideo(null);
    element("render-note").textContent = "";
    element("render-progress").hidden = true;
    drawLines();
    if (name !== UNSAVED) follow(name).catch(() => {});
  }

  function showVideo(name) {
    const address = name ? `renders/${name}.mp4` : "";
    element("video").hidden = element("video-link").hidden = !name;
    element("video-link").href = address;
    if (name) element("video").src = address;
    else element("video").removeAttribute("src");
  }

  async function follow(name) { // shows where the video of a path stands, until it is there
    followed = name;
    for (;;) {
      const { state, ahead, step, total, stage, message } = await ask("GET", `renders/${name}`);
      if (followed !== name) return;
      const busy = state === "waiting" || state === "running";
      element("render-progress").hidden = !busy;
      element("render").disabled = busy;
      if (step && total) element("render-bar").value = step / total;
      else element("render-bar").removeAttribute("value");
      element("render-note").textContent = {
        waiting: ahead ? `Waiting: ${ahead} before this one.` : "Starting\u2026",
        running: stage ? `Rendering: frame ${step} of ${total}` : "Starting\u2026",
        done: "The video is in the folder renders of the scene.",
        failed: `No video: ${message}.`, cancelled: "Cancelled.", none: "",
      }[state];
      if (!busy) return showVideo(state === "done" ? name : null);
      await new Promise((resume) => setTimeout(resume, 500));
    }
  }

  async function render() {
    let name = element("paths").value;
    if (name === UNSAVED) name = await save();
    showVideo(null);
    await ask("POST", `renders/${name}`);
    await follow(name);
  }

  // ---------------------------------------------------------------- the panel

  function listViews() {
    element("views-section").hidden = !data.views.length;
    data.views.forEach((row, index) => {
      const button = document.createElement("button"), image = new Image();
      Object.assign(image, { src: `views/${index}.png`, alt: `View ${index}`, loading: "lazy" });
      button.type = "button";
      button.append(image);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => chooseView(button.getAttribute("aria-pressed") === "true" ? -1 : index));
      element("views").append(button);
    });
  }

  function chooseView(index) {
    if (playing) stop();
    [...element("views").children].forEach((button, k) => button.setAttribute("aria-pressed", String(k === index)));
    element("compare").hidden = index < 0;
    if (index < 0) return direct(null);
    element("compare-image").src = `views/${index}.png`;
    element("compare-caption").textContent = `View ${index} as the run wrote it; behind this panel, the scene from the same camera.`;
    direct(cameraOf(data.views[index]));
  }

  function open(isOpen) {
    element("panel").hidden = !isOpen;
    element("panel-button").setAttribute("aria-expanded", String(isOpen));
    element("panel-button").textContent = isOpen ? "Close" : "Controls";
    document.body.classList.toggle("panel-open", isOpen);
  }

  const on = (id, type, act) => element(id).addEventListener(type, act);
  const guarded = (act, note) => () => act().catch((error) => { element(note).textContent = error.message; });
  on("panel-button", "click", () => open(element("panel").hidden));
  addEventListener("keydown", (event) => {
    if (event.code !== "Escape" || element("panel").hidden) return;
    open(false);
    element("panel-button").focus();
  });
  on("show-depth", "change", (event) => { display.depth = event.target.checked; refresh(); });
  on("show-cameras", "change", (event) => { shows.cameras = event.target.checked; drawLines(); });
  on("show-frame", "change", (event) => { shows.frame = event.target.checked; drawLines(); });
  on("detail", "change", (event) => { display.detail = event.target.value; refresh(); });
  on("paths", "change", choosePath);
  on("play", "click", () => {
    if (!playing) return play(paths.get(element("paths").value));
    stop();
  });
  on("record", "click", () => {
    if (recording) endRecording();
    else recordFrom();
  });
  on("save", "click", guarded(save, "record-note"));
  on("render", "click", guarded(render, "render-note"));
  on("render-cancel", "click", guarded(() => ask("DELETE", `renders/${element("paths").value}`), "render-note"));
  addEventListener("resize", drawLines);
  display.drawn = drawLines;
  listViews();
  listPaths();
  loadSaved().catch((error) => { element("record-note").textContent = error.message; });
}
