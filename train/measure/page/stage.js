// The picture: zoom and pan at its own resolution, draw from base to top, drag the ends, nudge them by keys.
// Points are pixels of the picture. The page is told what happened by callbacks; this file knows no server.

import { say } from "/page/words.js";

const SVG = "http://www.w3.org/2000/svg";
const LARGEST_ZOOM = 24, SHORTEST_PX = 3, PIXELATED_FROM = 3;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const stage = document.getElementById("stage");
const picture = document.getElementById("picture");
const overlay = document.getElementById("overlay");

const view = { zoom: 1, x: 0, y: 0, width: 0, height: 0 };
const pointers = new Map();
const drawn = new Map(); // id → its elements
let lines = [], chosen = null, mode = "draw", gesture = null, spaceDown = false, untouched = true;
/** choose(id), change(id, points, "while" | "end" | "nudge"), draw(points, "while" | "end" | "cancel"), viewed() */
let on = {};

export function connect(callbacks) { on = callbacks; }
export const zoomPercent = () => Math.round(view.zoom * 100);

export function setMode(next) {
  mode = next;
  stage.classList.toggle("drawing", mode === "draw");
  stage.classList.toggle("moving", mode === "move");
}

export function show(source, width, height) {
  Object.assign(view, { width, height });
  picture.src = source;
  picture.width = width; picture.height = height;
  untouched = true;
  fit();
}

export function fit() {
  if (!view.width) return;
  const zoom = Math.min(stage.clientWidth / view.width, stage.clientHeight / view.height);
  place(zoom, (stage.clientWidth - view.width * zoom) / 2, (stage.clientHeight - view.height * zoom) / 2);
  untouched = true;
}

/** Zoom by a factor around a point of the stage, by default its middle. */
export function zoomBy(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const least = 0.5 * Math.min(stage.clientWidth / view.width, stage.clientHeight / view.height, 1);
  const zoom = Math.min(LARGEST_ZOOM, Math.max(least, view.zoom * factor));
  const ratio = zoom / view.zoom;
  place(zoom, x - (x - view.x) * ratio, y - (y - view.y) * ratio);
}

/** Bring points into the middle, at a zoom at which a chimney is easy to see. */
export function focusOn(points) {
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const side = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), 40);
  const whole = Math.min(stage.clientWidth / view.width, stage.clientHeight / view.height);
  const zoom = Math.max(whole, Math.min(6, 0.4 * Math.min(stage.clientWidth, stage.clientHeight) / side));
  const middle = [(Math.max(...xs) + Math.min(...xs)) / 2, (Math.max(...ys) + Math.min(...ys)) / 2];
  place(zoom, stage.clientWidth / 2 - middle[0] * zoom, stage.clientHeight / 2 - middle[1] * zoom);
}

/** The point of the picture in the middle of the view. */
export const middle = () => clamp([(stage.clientWidth / 2 - view.x) / view.zoom, (stage.clientHeight / 2 - view.y) / view.zoom]);

function place(zoom, x, y) {
  // A strip of the picture always stays visible.
  const keep = 60, width = view.width * zoom, height = view.height * zoom;
  view.zoom = zoom;
  view.x = Math.min(stage.clientWidth - keep, Math.max(keep - width, x));
  view.y = Math.min(stage.clientHeight - keep, Math.max(keep - height, y));
  untouched = false;
  picture.style.transform = `translate(${view.x}px, ${view.y}px) scale(${zoom})`;
  picture.classList.toggle("pixels", zoom >= PIXELATED_FROM);
  redraw();
  on.viewed?.();
}

new ResizeObserver(() => { if (untouched) fit(); else redraw(); }).observe(stage);

// --- Lines.

/** Show lines: [{id, name, points, dropped, height}]; `height` is a text. */
export function showLines(next, selected) {
  lines = next; chosen = selected;
  const ids = new Set(lines.map((line) => line.id));
  for (const [id, parts] of drawn) {
    if (!ids.has(id)) { parts.group.remove(); drawn.delete(id); }
  }
  redraw();
}

export function focusEnd(id, end) { drawn.get(id)?.ends.at(end)?.focus(); }

function redraw() {
  const taken = [];
  for (const line of lines) {
    const parts = drawn.get(line.id) ?? made(line);
    while (parts.ends.length < line.points.length) addEnd(parts, line.id);
    while (parts.ends.length > line.points.length) parts.ends.pop().remove();
    const screen = line.points.map(([x, y]) => [x * view.zoom + view.x, y * view.zoom + view.y]);
    parts.group.classList.toggle("chosen", line.id === chosen);
    parts.group.classList.toggle("dropped", Boolean(line.dropped));
    for (const path of parts.paths) path.setAttribute("points", screen.map((point) => point.join(",")).join(" "));
    screen.forEach(([x, y], i) => {
      const last = line.points.length - 1, word = i === 0 ? "base" : i === last ? "top" : "bend";
      const [px, py] = line.points[i];
      parts.ends[i].setAttribute("transform", `translate(${x} ${y})`);
      parts.ends[i].setAttribute("aria-label", say(word, { n: line.number, x: format(px), y: format(py) }));
      parts.ends[i].classList.toggle("base", i === 0);
      for (const dot of parts.ends[i].querySelectorAll(".dot, .rim")) dot.setAttribute("r", i === 0 ? 8 : 5);
    });
    placeTag(parts.tag, line.height ?? "", screen, taken);
  }
}

/** Put the height next to the top where it covers no other height: right, left, above, below. */
function placeTag(tag, text, screen, taken) {
  const [x, y] = screen.at(-1), width = 8.5 * text.length + 4, rightward = x >= screen[0][0];
  const right = [x + 13, y + 5], left = [x - 13 - width, y + 5];
  const places = [...(rightward ? [right, left] : [left, right]), [x - width / 2, y - 14], [x - width / 2, y + 26]];
  const free = places.find(([px, py]) => taken.every(([tx, ty, w]) => px + width < tx || tx + w < px || Math.abs(py - ty) > 17));
  const [px, py] = free ?? places[0];
  if (text) taken.push([px, py, width]);
  tag.setAttribute("x", px);
  tag.setAttribute("y", py);
  tag.textContent = text;
}

function made(line) {
  const group = element("g", "");
  const paths = ["line halo", "line ink"].map((name) => element("polyline", name));
  const tag = element("text", "tag");
  group.append(...paths, tag);
  overlay.append(group);
  const parts = { group, paths, tag, ends: [] };
  drawn.set(line.id, parts);
  return parts;
}

function addEnd(parts, id) {
  const end = element("g", "end"), index = parts.ends.length;
  end.setAttribute("tabindex", "0");
  end.setAttribute("role", "button");
  for (const [name, radius] of [["hit", 20], ["rim", 6], ["dot", 6]]) {
    const circle = element("circle", name);
    circle.setAttribute("r", radius);
    end.append(circle);
  }
  Object.assign(end.dataset, { id, index });
  end.addEventListener("focus", () => on.choose?.(id));
  parts.ends.push(end);
  parts.group.append(end);
}

function element(name, className) {
  const made = document.createElementNS(SVG, name);
  made.setAttribute("class", className);
  return made;
}

// --- Pointers: mouse, pen and touch.

const clamp = ([x, y]) => [Math.min(view.width, Math.max(0, x)), Math.min(view.height, Math.max(0, y))].map((v) => Math.round(v * 10) / 10);
const format = (value) => String(Math.round(value * 10) / 10);

function at(event) {
  const box = stage.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}
const inPicture = ([x, y]) => clamp([(x - view.x) / view.zoom, (y - view.y) / view.zoom]);

stage.addEventListener("pointerdown", (event) => {
  if (!view.width || event.target.closest("#empty")) return;
  pointers.set(event.pointerId, at(event));
  stage.setPointerCapture(event.pointerId);
  if (pointers.size === 2) return beginPinch();
  if (pointers.size > 2) return;
  const end = event.target.closest?.(".end");
  const start = at(event);
  if (end && event.button === 0) {
    const line = lines.find(({ id }) => id === end.dataset.id), index = Number(end.dataset.index);
    const point = line.points[index];
    gesture = { kind: "drag", id: line.id, index, points: line.points, moved: false,
                grip: [point[0] * view.zoom + view.x - start[0], point[1] * view.zoom + view.y - start[1]] };
    end.focus({ preventScroll: true });
    on.choose?.(line.id);
  } else if (mode === "draw" && event.button === 0 && !spaceDown) {
    gesture = { kind: "draw", base: inPicture(start) };
  } else {
    gesture = { kind: "pan", from: start, x: view.x, y: view.y };
  }
  if (!end) stage.focus({ preventScroll: true });
  event.preventDefault();
});

stage.addEventListener("pointermove", (event) => {
  if (!pointers.has(event.pointerId)) return;
  const now = at(event);
  pointers.set(event.pointerId, now);
  if (gesture?.kind === "pinch") return pinch();
  if (gesture?.kind === "drag") {
    const points = gesture.points.map((point, i) =>
      i === gesture.index ? inPicture([now[0] + gesture.grip[0], now[1] + gesture.grip[1]]) : point);
    gesture.last = points; gesture.moved = true;
    if (distinct(points)) on.change?.(gesture.id, points, "while");
  } else if (gesture?.kind === "draw") {
    gesture.points = [gesture.base, inPicture(now)];
    if (distinct(gesture.points)) on.draw?.(gesture.points, "while");
  } else if (gesture?.kind === "pan") {
    place(view.zoom, gesture.x + now[0] - gesture.from[0], gesture.y + now[1] - gesture.from[1]);
  }
});

function finish(event, cancelled) {
  if (!pointers.delete(event.pointerId)) return;
  const ended = gesture;
  gesture = null;
  if (ended?.kind === "drag" && ended.moved) on.change?.(ended.id, distinct(ended.last) ? ended.last : ended.points, "end");
  if (ended?.kind === "draw") {
    const long = ended.points && Math.hypot(ended.points[1][0] - ended.base[0], ended.points[1][1] - ended.base[1]) >= SHORTEST_PX;
    on.draw?.(ended.points, long && !cancelled ? "end" : "cancel");
  }
}
stage.addEventListener("pointerup", (event) => finish(event, false));
stage.addEventListener("pointercancel", (event) => finish(event, true));

const distinct = (points) => points.slice(1).some(([x, y], i) => x !== points[i][0] || y !== points[i][1]);

function beginPinch() {
  if (gesture?.kind === "draw") on.draw?.(undefined, "cancel");
  if (gesture?.kind === "drag" && gesture.moved) on.change?.(gesture.id, gesture.points, "end");
  const [a, b] = [...pointers.values()];
  gesture = { kind: "pinch", distance: Math.hypot(a[0] - b[0], a[1] - b[1]), middle: mid(a, b) };
}

function pinch() {
  const [a, b] = [...pointers.values()];
  const distance = Math.hypot(a[0] - b[0], a[1] - b[1]), middle = mid(a, b);
  place(view.zoom, view.x + middle[0] - gesture.middle[0], view.y + middle[1] - gesture.middle[1]);
  zoomBy(distance / Math.max(1, gesture.distance), ...middle);
  Object.assign(gesture, { distance, middle });
}
const mid = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];

stage.addEventListener("wheel", (event) => {
  if (!view.width) return;
  event.preventDefault();
  const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
  zoomBy(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002)), ...at(event));
}, { passive: false });

// --- Keys on an end or on the picture.

stage.addEventListener("keydown", (event) => {
  if (event.key === " " && !event.target.closest("button")) { spaceDown = true; event.preventDefault(); }
  const step = ARROWS[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const factor = event.shiftKey ? 10 : 1, end = event.target.closest?.(".end");
  if (!end) return place(view.zoom, view.x - step[0] * 24 * factor, view.y - step[1] * 24 * factor);
  const line = lines.find(({ id }) => id === end.dataset.id);
  const points = line.points.map(([x, y], i) =>
    i === Number(end.dataset.index) ? clamp([x + step[0] * factor, y + step[1] * factor]) : [x, y]);
  if (distinct(points)) on.change?.(line.id, points, "nudge");
});
window.addEventListener("keyup", (event) => { if (event.key === " ") spaceDown = false; });
window.addEventListener("blur", () => { spaceDown = false; });
