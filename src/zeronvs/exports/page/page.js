"use strict";
// Looks around in a scene of Gaussian splats. World: z up, scene units. Camera: x right, y up,
// looking along -z. The arithmetic of a splat is that of zeronvs/scene/rasterizer.py.

const config = JSON.parse(document.getElementById("config").textContent);
const element = (id) => document.getElementById(id);
const canvas = element("view");

// ---------------------------------------------------------------- unpacking and sorting
// Runs in a worker, made of this function's own text; on the page itself where there is none.
// Answers {unpack} with {place, shape} and {sort} with {order}, through send(answer, buffers).

function splatWorker(send) {
  let means = null, depths, bits, keys, first, second;

  // Inflate (RFC 1951), for browsers without DecompressionStream.
  function inflate(data, size) {
    const out = new Uint8Array(size);
    let at = 2, held = 0, count = 0, end = 0; // after the two bytes of zlib's header
    function take(n) {
      while (count < n) {
        if (at >= data.length) throw new Error("the data ends early");
        held |= data[at++] << count;
        count += 8;
      }
      const value = held & ((1 << n) - 1);
      held >>>= n;
      count -= n;
      return value;
    }
    function codes(lengths) { // canonical Huffman: how many codes of each length, and their symbols
      const counts = new Uint16Array(16), starts = new Uint16Array(16), symbols = [];
      for (const length of lengths) counts[length]++;
      counts[0] = 0;
      for (let k = 1; k < 16; k++) starts[k] = starts[k - 1] + counts[k - 1];
      lengths.forEach((length, symbol) => { if (length) symbols[starts[length]++] = symbol; });
      return { counts, symbols };
    }
    function symbol({ counts, symbols }) {
      let code = 0, start = 0, index = 0;
      for (let length = 1; length < 16; length++) {
        code |= take(1);
        const here = counts[length];
        if (code - here < start) return symbols[index + code - start];
        index += here;
        start = (start + here) << 1;
        code <<= 1;
      }
      throw new Error("the data is damaged");
    }
    const order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    function tables(kind) {
      if (kind === 1) {
        const fixed = Array.from({ length: 288 }, (_, k) => (k < 144 ? 8 : k < 256 ? 9 : k < 280 ? 7 : 8));
        return [codes(fixed), codes(new Array(30).fill(5))];
      }
      const literals = take(5) + 257, distances = take(5) + 1, given = take(4) + 4;
      const lengths = new Array(19).fill(0);
      for (let k = 0; k < given; k++) lengths[order[k]] = take(3);
      const code = codes(lengths), all = [];
      while (all.length < literals + distances) {
        const next = symbol(code);
        if (next < 16) all.push(next);
        else {
          const value = next === 16 ? all[all.length - 1] : 0;
          const times = next === 16 ? 3 + take(2) : next === 17 ? 3 + take(3) : 11 + take(7);
          for (let k = 0; k < times; k++) all.push(value);
        }
      }
      return [codes(all.slice(0, literals)), codes(all.slice(literals))];
    }
    for (let last = 0; !last;) {
      last = take(1);
      const kind = take(2);
      if (kind === 0) {
        held = count = 0;
        const length = data[at] | (data[at + 1] << 8);
        at += 4;
        out.set(data.subarray(at, at + length), end);
        at += length;
        end += length;
        continue;
      }
      const [literal, distance] = tables(kind);
      for (let next; (next = symbol(literal)) !== 256;) {
        if (next < 256) { out[end++] = next; continue; }
        let length = next - 254; // 257 copies three bytes
        if (next === 285) length = 258;
        else if (next > 264) {
          const extra = (next - 261) >> 2;
          length = ((4 + ((next - 265) & 3)) << extra) + 3 + take(extra);
        }
        const far = symbol(distance), extra = far < 4 ? 0 : (far - 2) >> 1;
        const back = far < 4 ? far + 1 : ((2 + (far & 1)) << extra) + 1 + take(extra);
        for (let k = 0; k < length; k++, end++) out[end] = out[end - back];
      }
    }
    return out;
  }

  async function unpack(text, config) {
    const binary = atob(text.trim());
    const packed = new Uint8Array(binary.length);
    for (let k = 0; k < binary.length; k++) packed[k] = binary.charCodeAt(k);
    const n = config.count, bytesASplat = 23;
    let planes;
    if (typeof DecompressionStream === "undefined") planes = inflate(packed, n * bytesASplat);
    else {
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
      planes = new Uint8Array(await new Response(stream).arrayBuffer());
    }
    if (planes.length !== n * bytesASplat) throw new Error("the data is incomplete");
    let row = 0;
    function column(bytes, put) { // undoes differences between neighbours
      const low = row++ * n, middle = bytes > 1 ? row++ * n : -1, high = bytes > 2 ? row++ * n : -1;
      const unused = 32 - 8 * bytes;
      for (let k = 0, value = 0; k < n; k++) {
        let folded = planes[low + k];
        if (bytes > 1) folded |= planes[middle + k] << 8;
        if (bytes > 2) folded |= planes[high + k] << 16;
        value += (folded >>> 1) ^ -(folded & 1);
        value = bytes > 2 ? (value << unused) >> unused : (value << unused) >>> unused;
        put(k, value);
      }
    }
    // Whole rows of a texture 2048 wide. place: x, y, z as floats, colour and opacity; shape:
    // quaternion, scales.
    const size = 2048 * Math.ceil(n / 2048);
    const place = new Uint32Array(4 * size), shape = new Uint32Array(2 * size);
    const floats = new Float32Array(place.buffer);
    means = new Float32Array(3 * n);
    for (let axis = 0; axis < 3; axis++) {
      column(3, (k, v) => {
        floats[4 * k + axis] = means[3 * k + axis] = config.fine * Math.sinh(v * config.position_step);
      });
    }
    for (let axis = 0; axis < 3; axis++) column(2, (k, v) => { shape[2 * k + 1] |= v << (10 * axis); });
    for (let part = 0; part < 4; part++) column(1, (k, v) => { shape[2 * k] |= v << (8 * part); });
    for (let part = 0; part < 4; part++) column(1, (k, v) => { place[4 * k + 3] |= v << (8 * part); });
    depths = new Float32Array(n);
    bits = new Uint32Array(depths.buffer);
    keys = new Uint32Array(n);
    first = new Uint32Array(n);
    second = new Uint32Array(n);
    send({ place, shape }, [place.buffer, shape.buffer]);
  }

  // Farthest first, without what lies behind or far beside the view: two passes of a counting sort
  // over 22 bits of the depth. The bits of a positive float grow with it, evenly on a logarithmic
  // scale: near splats are told apart as well as far ones.
  function sort({ eye, forward, cosine, near, order }) {
    let count = 0, low = 0xffffffff, high = 0;
    const n = depths.length, [ex, ey, ez] = eye, [fx, fy, fz] = forward;
    for (let k = 0; k < n; k++) {
      const x = means[3 * k] - ex, y = means[3 * k + 1] - ey, z = means[3 * k + 2] - ez;
      const depth = x * fx + y * fy + z * fz;
      if (depth <= near) continue;
      const squared = x * x + y * y + z * z;
      if (squared > 0.1 && depth * depth < cosine * cosine * squared) continue;
      depths[count] = depth;
      first[count] = k;
      const value = bits[count++];
      if (value < low) low = value;
      if (value > high) high = value;
    }
    let shift = 0;
    while ((high - low) >>> shift >= 1 << 22) shift++;
    const low11 = new Uint32Array(2049), high11 = new Uint32Array(2049);
    for (let k = 0; k < count; k++) {
      const key = (high - bits[k]) >>> shift;
      keys[k] = key;
      low11[(key & 2047) + 1]++;
      high11[(key >>> 11) + 1]++;
    }
    for (let k = 0; k < 2048; k++) {
      low11[k + 1] += low11[k];
      high11[k + 1] += high11[k];
    }
    for (let k = 0; k < count; k++) second[low11[keys[k] & 2047]++] = k;
    if (!order || order.length < n) order = new Uint32Array(2048 * Math.ceil(n / 2048));
    for (let k = 0; k < count; k++) order[high11[keys[second[k]] >>> 11]++] = first[second[k]];
    send({ order, count }, [order.buffer]);
  }

  return async (message) => {
    try {
      if (message.unpack) await unpack(message.unpack, message.config);
      else sort(message.sort);
    } catch (error) {
      send({ failed: String(error && error.message || error) }, []);
    }
  };
}

// Returns post(message, buffers); answers go to receive.
function startWorker(receive) {
  const here = () => {
    const handle = splatWorker((answer) => setTimeout(() => receive(answer)));
    return (message) => setTimeout(() => handle(message));
  };
  try {
    const source = `const handle = (${splatWorker})((answer, buffers) => postMessage(answer, buffers));
      onmessage = (event) => handle(event.data);`;
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    let post = (message, buffers) => worker.postMessage(message, buffers || []);
    let pending = null, answered = false;
    worker.onmessage = (event) => { answered = true; pending = null; receive(event.data); };
    worker.onerror = (event) => { // the browser refuses workers of pages on disk
      event.preventDefault();
      if (answered) return;
      post = here();
      if (pending) post(pending);
    };
    return (message, buffers) => { if (!answered) pending = message; post(message, buffers); };
  } catch (error) {
    return here();
  }
}

// ---------------------------------------------------------------- drawing

const VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D place, shape, order;
uniform int count;
uniform mat3 world_to_camera;
uniform vec3 eye;
uniform float focal_px;
uniform vec2 size_px, scale_code;  // scale_code: lowest logarithm, step
uniform bool depth_colors;
layout(location = 0) in ivec2 corner;  // 0 or 1 each
out vec2 sigmas;
flat out vec4 color;

// Yellow near, violet far, as zeronvs/exports/overlay.py; by the logarithm, from 0.4 to 6 units.
vec3 depth_color(float depth) {
  float nearness = 1.0 - clamp(log(depth / 0.4) / log(15.0), 0.0, 1.0);
  vec3 far = vec3(0.27, 0.0, 0.33), middle = vec3(0.13, 0.57, 0.55), near = vec3(0.99, 0.91, 0.14);
  return nearness < 0.5 ? mix(far, middle, 2.0 * nearness) : mix(middle, near, 2.0 * nearness - 1.0);
}

void main() {
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);  // nowhere, unless the splat is seen
  int rank = gl_InstanceID * BATCH + gl_VertexID / 4;
  if (rank >= count) return;
  uint index = texelFetch(order, ivec2(rank & 2047, rank >> 11), 0).x;
  ivec2 texel = ivec2(index & 2047u, index >> 11);
  uvec4 p = texelFetch(place, texel, 0);
  vec3 center = world_to_camera * (uintBitsToFloat(p.xyz) - eye);
  float depth = -center.z;
  color = vec4((uvec4(p.w) >> uvec4(0u, 8u, 16u, 24u)) & 255u) / 255.0;
  if (depth <= NEAR || color.a <= SMALLEST_ALPHA) return;
  if (depth_colors) color.rgb = depth_color(depth);

  uvec2 s = texelFetch(shape, texel, 0).xy;
  vec4 q = normalize((vec4((uvec4(s.x) >> uvec4(0u, 8u, 16u, 24u)) & 255u) - 128.0) / 127.0);
  vec3 scale = exp(scale_code.x + scale_code.y * vec3((uvec3(s.y) >> uvec3(0u, 10u, 20u)) & 1023u));
  float w = q.x, x = q.y, y = q.z, z = q.w;
  mat3 axes = world_to_camera * mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));

  // The linearised projection, its slope held within 1.3 times the field of view.
  vec2 limit = 0.65 * size_px / focal_px;
  vec2 slope = clamp(center.xy / depth, -limit, limit);
  // Nearer than the photograph's pixels, its low-pass is as wide as one of them: no grid of dots.
  float enlarged = max(1.0, focal_px / PHOTO_FOCAL_PX);
  float low_pass_px2 = LOW_PASS_PX2 * enlarged * enlarged;
  float a = low_pass_px2, b = 0.0, c = low_pass_px2;
  for (int k = 0; k < 3; k++) {
    vec2 along = focal_px / depth * scale[k] * (axes[k].xy + slope * axes[k].z);
    a += along.x * along.x;
    b += along.x * along.y;
    c += along.y * along.y;
  }
  // Axes of the ellipse, and how far out along them the splat still shows.
  float middle = 0.5 * (a + c), spread = length(vec2(0.5 * (a - c), b));
  float major = sqrt(middle + spread), minor = sqrt(max(middle - spread, low_pass_px2));
  vec2 direction = abs(b) > 1e-6 * middle ? normalize(vec2(b, middle + spread - a))
    : (a >= c ? vec2(1.0, 0.0) : vec2(0.0, 1.0));
  float reach = sqrt(2.0 * log(color.a / SMALLEST_ALPHA));
  sigmas = reach * (2.0 * vec2(corner) - 1.0);
  vec2 offset = direction * major * sigmas.x + vec2(-direction.y, direction.x) * minor * sigmas.y;
  gl_Position = vec4((focal_px * center.xy / depth + offset) / (0.5 * size_px), 0.0, 1.0);
}`;

const BATCH = 256; // splats drawn as one instance: drivers are slow at instances of four corners

const FRAGMENT = `#version 300 es
precision highp float;
in vec2 sigmas;
flat in vec4 color;
out vec4 pixel;

void main() {
  float alpha = color.a * exp(-0.5 * dot(sigmas, sigmas));
  if (alpha < SMALLEST_ALPHA) discard;
  alpha = min(alpha, LARGEST_ALPHA);
  pixel = vec4(color.rgb * alpha, alpha);
}`;

// Returns {setOrder, draw}; needs a new one after the context was lost.
function makeRenderer(gl, { place, shape }) {
  const constants = ["near", "photo_focal_px", "low_pass_px2", "smallest_alpha", "largest_alpha"]
    .map((name) => `#define ${name.toUpperCase()} ${config[name].toFixed(12)}`)
    .concat(`#define BATCH ${BATCH}`).join("\n");
  const program = gl.createProgram();
  for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source.replace("\n", `\n${constants}\n`)); // after the version
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(gl.getProgramInfoLog(program) || "the graphics program was refused");
  }
  gl.useProgram(program);
  const uniform = (name) => gl.getUniformLocation(program, name);
  function texture(unit, name, internal, format, data, channels) {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    const rows = data.length / channels / 2048;
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, 2048, rows, 0, format, gl.UNSIGNED_INT, data);
    gl.uniform1i(uniform(name), unit);
  }
  texture(0, "place", gl.RGBA32UI, gl.RGBA_INTEGER, place, 4);
  texture(1, "shape", gl.RG32UI, gl.RG_INTEGER, shape, 2);
  gl.uniform2f(uniform("scale_code"), config.scale_low, config.scale_step);
  // Units 0 and 1 stay bound; the order of drawing, unit 2, changes with the view.
  const rows = place.length / 4 / 2048;
  texture(2, "order", gl.R32UI, gl.RED_INTEGER, new Uint32Array(2048 * rows), 1);
  const corners = new Int8Array(8 * BATCH), triangles = new Uint16Array(6 * BATCH);
  for (let k = 0; k < BATCH; k++) {
    corners.set([0, 0, 1, 0, 0, 1, 1, 1], 8 * k);
    triangles.set([0, 1, 2, 2, 1, 3].map((vertex) => 4 * k + vertex), 6 * k);
  }
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, corners, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribIPointer(0, 2, gl.BYTE, 0, 0);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STATIC_DRAW);
  gl.disable(gl.DEPTH_TEST);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA); // farthest first, premultiplied
  gl.clearColor(...config.background, 1);
  const at = Object.fromEntries(
    ["world_to_camera", "eye", "focal_px", "size_px", "count", "depth_colors"].map((name) => [name, uniform(name)]));
  let drawn = 0, fence = null;
  return {
    idle() { // whether the last frame is finished: frames must not queue up on a slow machine
      if (fence && gl.getSyncParameter(fence, gl.SYNC_STATUS) !== gl.SIGNALED) return gl.isContextLost();
      if (fence) gl.deleteSync(fence);
      fence = null;
      return true;
    },
    setOrder(order, count) {
      drawn = count;
      const used = Math.ceil(count / 2048);
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 2048, used, gl.RED_INTEGER, gl.UNSIGNED_INT, order);
      gl.uniform1i(at.count, count);
    },
    draw({ axes, eye }, focal_px) {
      const { width, height } = canvas;
      gl.viewport(0, 0, width, height);
      gl.clear(gl.COLOR_BUFFER_BIT);
      const [right, up, back] = axes;
      gl.uniformMatrix3fv(at.world_to_camera, false, // columns
        [0, 1, 2].flatMap((k) => [right[k], up[k], back[k]]));
      gl.uniform3fv(at.eye, eye);
      gl.uniform1f(at.focal_px, focal_px);
      gl.uniform2f(at.size_px, width, height);
      gl.uniform1i(at.depth_colors, display.depth ? 1 : 0);
      const batches = Math.ceil(drawn / BATCH);
      gl.drawElementsInstanced(gl.TRIANGLES, 6 * BATCH, gl.UNSIGNED_SHORT, 0, batches);
      fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
      gl.flush();
    },
  };
}

// ---------------------------------------------------------------- the visitor's camera
// Six numbers: azimuth and elevation of the camera's backward axis (radians), the logarithm of the
// distance to what it moves about, and a shift (scene units). `goal` is where the visitor wants to
// be, `shown` follows it smoothly.

const [AZIMUTH, ELEVATION, DISTANCE, SHIFT] = [0, 1, 2, 3];
const orbits = config.path === "orbit";
const degrees = Math.PI / 180;
const photo = [0, 1, 2, 3].map((c) => [0, 1, 2].map((r) => config.camera_to_world[r][c]));
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const plus = (a, b, factor) => a.map((value, k) => value + factor * b[k]);

function axesAt(azimuth, elevation) { // right, up, back; as zeronvs.cameras.poses.orbit_pose
  const [sa, ca, se, ce] = [Math.sin(azimuth), Math.cos(azimuth), Math.sin(elevation), Math.cos(elevation)];
  return [[-sa, ca, 0], [-se * ca, -se * sa, ce], [ce * ca, ce * sa, se]];
}

const startsFrom = orbits ? photo[3] : photo[2];
const start = [
  Math.atan2(startsFrom[1], startsFrom[0]),
  Math.atan2(startsFrom[2], Math.hypot(startsFrom[0], startsFrom[1])),
  orbits ? Math.log(Math.hypot(...photo[3])) : 0,
  0, 0, 0,
];
// How the photograph's camera is turned against an upright one there: hardly, as a rule.
const residual = photo.slice(0, 3).map((axis) => axesAt(start[0], start[1]).map((a) => dot(a, axis)));
const limits = [
  orbits ? [ELEVATION, 5 * degrees, 85 * degrees, 0.12] : [ELEVATION, -60 * degrees, 60 * degrees, 0.12],
  [DISTANCE, Math.log(0.6), Math.log(1.6), 0.12],
].map(([k, low, high, soft]) => [k, Math.min(low, start[k]), Math.max(high, start[k]), soft]);
const REACH = 0.3, REACH_SOFT = 0.06;
let goal = [...start], shown = [...start];

function cameraAt(state, sway) {
  const [azimuth, elevation] = state, shift = state.slice(SHIFT);
  const distance = Math.exp(state[DISTANCE]);
  const upright = axesAt(azimuth + sway[0], elevation + sway[1]);
  let eye;
  if (orbits) eye = plus(shift, upright[2], distance);
  else { // swaying moves about the point one unit ahead
    eye = plus(plus(photo[3], shift, 1), axesAt(azimuth, elevation)[2], -1);
    eye = plus(eye, upright[2], 1);
  }
  const axes = residual.map((r) => [0, 1, 2].map((k) => r[0] * upright[0][k] + r[1] * upright[1][k] + r[2] * upright[2][k]));
  return { axes, eye };
}

// The state in which a camera stands and looks as this one does; its roll is lost.
function stateOf({ axes, eye }) {
  const back = [0, 1, 2].map((k) => residual.reduce((sum, r, i) => sum + r[2] * axes[i][k], 0));
  back.forEach((value, k) => { back[k] = Math.max(-1, Math.min(1, value)); });
  const distance = Math.max(0.05, dot(eye, back));
  const shift = orbits ? plus(eye, back, -distance) : plus(eye, photo[3], -1);
  const turned = [Math.atan2(back[1], back[0]), Math.asin(back[2])];
  return [...turned, orbits ? Math.log(distance) : start[DISTANCE], ...shift];
}

// Moves the goal; beyond a limit ever less.
function change(k, amount) {
  for (const [index, low, high, soft] of limits) {
    if (index !== k) continue;
    const beyond = amount > 0 ? goal[k] - high : low - goal[k];
    if (beyond > 0) amount *= Math.exp(-beyond / soft);
    goal[k] = Math.min(high + 2 * soft, Math.max(low - 2 * soft, goal[k] + amount));
    return;
  }
  goal[k] += amount;
}

function shiftBy(direction, amount) {
  const shift = goal.slice(SHIFT), length = Math.hypot(...shift);
  const outwards = dot(shift, direction) * amount > 0;
  if (length > REACH && outwards) amount *= Math.exp(-(length - REACH) / REACH_SOFT);
  const moved = plus(shift, direction, amount), reached = Math.hypot(...moved);
  const factor = Math.min(1, (REACH + 2 * REACH_SOFT) / Math.max(reached, 1e-9));
  moved.forEach((value, k) => { goal[SHIFT + k] = factor * value; });
}

// Pulls the goal back within the limits.
function relax(seconds) {
  const rest = Math.exp(-seconds / 0.18);
  const back = (value, limit) => (Math.abs(value - limit) < 1e-4 ? limit : limit + (value - limit) * rest);
  for (const [k, low, high] of limits) {
    if (goal[k] > high) goal[k] = back(goal[k], high);
    if (goal[k] < low) goal[k] = back(goal[k], low);
  }
  const length = Math.hypot(...goal.slice(SHIFT));
  if (length > REACH) for (let k = SHIFT; k < 6; k++) goal[k] *= back(length, REACH) / length;
}

function reset() {
  const turns = Math.round((goal[AZIMUTH] - start[AZIMUTH]) / (2 * Math.PI));
  goal = [...start];
  goal[AZIMUTH] += 2 * Math.PI * turns; // the short way home
}

// Ahead (or nearer), in shares of the distance.
function approach(amount) {
  if (orbits) change(DISTANCE, -amount);
  else shiftBy(axesAt(goal[AZIMUTH], goal[ELEVATION])[2], -amount);
}

// Something between the whole photograph and a window full of it: much of it is seen, and little of
// what lies beyond its borders.
function framing() {
  const ratio = innerWidth / innerHeight / config.aspect;
  return ratio ** 0.3; // the photograph's height over the window's
}

function focalOver(height) {
  const fov_y_rad = directed ? directed.fov_y_rad : config.fov_y_rad;
  return 0.5 * height * framing() / Math.tan(0.5 * fov_y_rad);
}

// ---------------------------------------------------------------- input

const pointers = new Map(), pressed = new Set();
let touched = null, lastTap = { time: -1e9 }, travelled = 0;

function firstTouch() {
  if (directed) { // the visitor moves on from there
    goal = stateOf(directed);
    shown = [...goal];
    direct(null);
  }
  if (touched === null) {
    touched = performance.now();
    setTimeout(() => element("hint").classList.add("gone"), 1500);
  }
  wake();
}

function turn(dx, dy) { // CSS pixels
  if (orbits) {
    const angle = 0.9 * Math.PI / Math.min(innerHeight, innerWidth * 1.5);
    change(AZIMUTH, -dx * angle);
    change(ELEVATION, dy * angle);
  } else { // what is under the finger stays there
    change(AZIMUTH, dx / focalOver(innerHeight) / Math.cos(goal[ELEVATION]));
    change(ELEVATION, -dy / focalOver(innerHeight));
  }
}

function pan(dx, dy) {
  const [right, up] = cameraAt(goal, [0, 0]).axes;
  const unit = (orbits ? Math.exp(goal[DISTANCE]) : 1) / focalOver(innerHeight);
  shiftBy(right, -dx * unit);
  shiftBy(up, dy * unit);
}

function listen() {
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    try { canvas.setPointerCapture(event.pointerId); } catch (error) { /* released already */ }
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (pointers.size === 1) travelled = 0;
    canvas.classList.add("held");
    firstTouch();
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY], dx = now[0] - before[0], dy = now[1] - before[1];
    travelled += Math.hypot(dx, dy);
    if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const gap = (at) => Math.max(20, Math.hypot(at[0] - other[0], at[1] - other[1]));
      approach(Math.log(gap(now) / gap(before)));
      pan(dx / 2, dy / 2);
    } else if (pointers.size === 1) {
      if (event.buttons & 6 || event.shiftKey) pan(dx, dy);
      else turn(dx, dy);
    }
    pointers.set(event.pointerId, now);
    wake();
  });
  const release = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (pointers.size === 0) canvas.classList.remove("held");
    if (event.type === "pointerup" && pointers.size === 0 && travelled < 8 && event.button === 0) {
      const tap = { time: performance.now(), x: event.clientX, y: event.clientY };
      const near = Math.hypot(tap.x - lastTap.x, tap.y - lastTap.y) < 40;
      if (near && tap.time - lastTap.time < 350) reset();
      lastTap = tap;
    }
    wake();
  };
  for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(type, release);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
    firstTouch();
    approach(-Math.max(-150, Math.min(150, lines)) * (event.ctrlKey ? 0.006 : 0.001));
  }, { passive: false });
  addEventListener("gesturestart", (event) => event.preventDefault());
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof Element && event.target.matches("select, input")) return;
    if (event.code !== "KeyR" && !(event.code in walks)) return;
    event.preventDefault();
    firstTouch();
    if (event.code === "KeyR") reset();
    else pressed.add(event.code);
  });
  addEventListener("keyup", (event) => { pressed.delete(event.code); wake(); });
  addEventListener("blur", () => { pressed.clear(); wake(); });
  addEventListener("resize", () => { layout(); stale = true; wake(); });
}

function aside(amount) {
  if (orbits) change(AZIMUTH, 2.5 * amount);
  else shiftBy(axesAt(goal[AZIMUTH], 0)[0], amount);
}
function ahead(amount) {
  if (orbits) approach(amount);
  else shiftBy(axesAt(goal[AZIMUTH], 0)[2], -amount);
}
const leftwards = (amount) => change(AZIMUTH, (orbits ? -1 : 1) * amount);
const upwards = (amount) => change(ELEVATION, (orbits ? 1 : -1) * amount);
const walks = { // what a second of holding a key does
  KeyW: (s) => ahead(0.4 * s), ArrowUp: (s) => ahead(0.4 * s),
  KeyS: (s) => ahead(-0.4 * s), ArrowDown: (s) => ahead(-0.4 * s),
  KeyA: (s) => aside(-0.4 * s), KeyD: (s) => aside(0.4 * s),
  ArrowLeft: (s) => leftwards(s), ArrowRight: (s) => leftwards(-s),
  PageUp: (s) => upwards(0.6 * s), PageDown: (s) => upwards(-0.6 * s),
};

// ---------------------------------------------------------------- frames

let post, gl, renderer = null, textures = null, orderNow = null, spare = null;
let sorting = false, sortedFor = "", readyAt = null;
let stale = true, scheduled = false, before = null, quality = 1, slow = 0;

// What a served page changes from outside. detail: auto, fine or fast; drawn: called with each
// camera that was drawn.
const display = { depth: false, detail: "auto", drawn: null };
// A camera {axes, eye, fov_y_rad} that is shown instead of the visitor's; null: none.
let directed = null;

function direct(camera) {
  directed = camera;
  refresh();
}

function refresh() {
  stale = true;
  wake();
}

const SWAY_SECONDS = 24;
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

function swayAt(now) { // a slow figure of eight, until the first touch
  if (calm || readyAt === null) return [0, 0];
  const seconds = (now - readyAt) / 1000, ease = (t) => { t = Math.min(1, Math.max(0, t)); return t * t * (3 - 2 * t); };
  const since = touched === null ? 0 : (now - touched) / 1000;
  const size = ease(seconds / 2) * ease((SWAY_SECONDS - seconds) / 2) * (1 - ease(since / 0.5));
  return [0.05 * size * Math.sin(0.9 * seconds), 0.02 * size * Math.sin(1.8 * seconds)];
}

function wake() {
  if (scheduled || !renderer) return;
  scheduled = true;
  requestAnimationFrame(frame);
}

function frame(now) {
  scheduled = false;
  if (!renderer) return;
  if (!renderer.idle()) return wake();
  const seconds = before === null ? 1 / 60 : Math.min(0.4, Math.max(0.001, (now - before) / 1000));
  for (const code of pressed) walks[code](seconds);
  if (pointers.size === 0) relax(seconds);
  const share = 1 - Math.exp(-seconds / 0.07);
  let moving = pressed.size > 0;
  shown = shown.map((value, k) => {
    const gap = goal[k] - value;
    if (Math.abs(gap) < 1e-5) return goal[k];
    moving = true;
    return value + share * gap;
  });
  const sway = swayAt(now);
  const swaying = !calm && readyAt !== null && now - readyAt < 1000 * SWAY_SECONDS &&
    (touched === null || now - touched < 500);
  moving = moving || swaying;
  // A slow machine draws fewer pixels while things move, and all of them at rest.
  if (moving && before !== null) slow = 0.8 * slow + 0.2 * seconds;
  if (slow > 0.045 && quality > 0.5) { quality *= 0.8; slow = 0.03; }
  resize({ auto: moving ? quality : 1, fine: 1, fast: 0.5 }[display.detail]);
  const camera = directed || cameraAt(shown, sway);
  requestSort(camera);
  if (moving || stale) {
    renderer.draw(camera, focalOver(canvas.height));
    stale = false;
    if (display.drawn) display.drawn(camera);
  }
  before = moving ? now : null; // no time passes at rest
  if (moving) wake();
}

function requestSort(camera) {
  const forward = camera.axes[2].map((value) => -value);
  const tangent = Math.hypot(canvas.width, canvas.height) / 2 / focalOver(canvas.height);
  const angle = Math.min(Math.PI / 2, Math.atan(tangent) + 0.4); // room for turning until the next
  const message = { eye: camera.eye, forward, cosine: Math.cos(angle), near: config.near };
  const asked = JSON.stringify(message);
  if (sorting || asked === sortedFor) return;
  sorting = true;
  sortedFor = asked;
  message.order = spare;
  post({ sort: message }, spare ? [spare.buffer] : []);
  spare = null;
}

function resize(factor) {
  const ratio = Math.min(2, devicePixelRatio || 1) * factor;
  const width = Math.max(1, Math.round(innerWidth * ratio)), height = Math.max(1, Math.round(innerHeight * ratio));
  if (canvas.width === width && canvas.height === height) return;
  canvas.width = width;
  canvas.height = height;
  stale = true;
}

function receive(answer) {
  if (answer.failed) return fail(`The scene cannot be shown: ${answer.failed}. Copy the file again.`);
  if (answer.place) {
    textures = answer;
    makeReady();
    return;
  }
  spare = orderNow;
  orderNow = answer.order;
  orderNow.used = answer.count;
  sorting = false;
  if (renderer) renderer.setOrder(orderNow, answer.count);
  stale = true;
  if (readyAt === null && renderer) reveal();
  wake();
}

function makeReady() {
  try {
    renderer = makeRenderer(gl, textures);
  } catch (error) {
    return fail(`The scene cannot be shown: ${error.message}`);
  }
  if (orderNow) renderer.setOrder(orderNow, orderNow.used);
  stale = true;
  wake();
}

function reveal() {
  readyAt = performance.now();
  // Two frames later the first one is on the screen.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    element("cover").classList.add("gone");
    element("note").classList.add("gone");
    document.documentElement.dataset.state = "ready";
    const hint = element("hint");
    hint.classList.remove("gone");
    setTimeout(() => hint.classList.add("gone"), 9000);
  }));
}

function say(text, state) {
  element("note").textContent = text;
  document.documentElement.dataset.state = state;
}

function fail(text) {
  say(text, "failed");
}

function layout() { // the photograph lies where the scene will show it
  const poster = element("poster"), height = framing() * innerHeight;
  poster.style.maxWidth = poster.style.maxHeight = "none";
  poster.style.height = `${height}px`;
  poster.style.width = `${height * config.aspect}px`;
}

function begin() {
  gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, powerPreference: "high-performance" });
  if (!gl) {
    return fail("Looking around needs WebGL 2, which this browser lacks or has switched off. " +
      "A current Firefox, Chrome, Edge or Safari has it. This is the photograph.");
  }
  canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); renderer = null; });
  canvas.addEventListener("webglcontextrestored", () => { if (textures) makeReady(); });
  listen();
  post = startWorker(receive);
  say(`Unpacking ${config.count.toLocaleString("en")} splats\u2026`, "loading");
  const data = element("splats");
  post({ unpack: data.textContent, config });
  data.remove();
}

element("blur").src = element("poster").src;
const coarse = matchMedia("(pointer: coarse)").matches;
element("hint").textContent = (orbits ? "Drag to move around it" : "Drag to look around") +
  (coarse ? " \u00b7 two fingers shift the view and come nearer \u00b7 tap twice to start over"
    : orbits ? " \u00b7 wheel: nearer \u00b7 right drag: shift \u00b7 W A S D: walk \u00b7 R: start over"
      : " \u00b7 wheel or W A S D: walk \u00b7 right drag: shift \u00b7 R: start over");
layout();
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
else begin();
