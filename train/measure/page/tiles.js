// The list of pictures by scene. Only the rows in view exist, so that a release of 10,000 pictures scrolls smoothly.

import { say } from "/page/words.js";

const HEAD_PX = 30, ROW_PX = 132, MORE_PX = 400;
const list = document.getElementById("thumbnails"), search = document.getElementById("search");
const space = document.createElement("div");
space.setAttribute("role", "presentation");
list.append(space);

let tiles = [], rows = [], work = "", current = null, choose = () => {};
const made = new Map();

export function connect(callback) { choose = callback; }

/** Show the pictures of a work: [{i, name, scene, lines, decided}], sorted by scene. */
export function showTiles(key, next) {
  if (work !== key) clear();
  work = key; tiles = next;
  arrange();
}

function arrange() {
  const wanted = search.value.trim().toLowerCase();
  const found = tiles.filter(({ name }) => name.toLowerCase().includes(wanted));
  rows = [];
  let top = 0, scene = null, pair = null;
  for (const tile of found) {
    if (tile.scene !== scene) {
      scene = tile.scene; pair = null;
      rows.push({ key: `s${scene}`, top, height: HEAD_PX, scene });
      top += HEAD_PX;
    }
    if (!pair || pair.length === 2) {
      pair = [];
      rows.push({ key: `t${tile.i}`, top, height: ROW_PX, pair });
      top += ROW_PX;
    }
    pair.push(tile);
  }
  space.style.height = `${top}px`;
  const count = { n: found.length.toLocaleString(), all: tiles.length.toLocaleString() };
  document.getElementById("found").textContent = tiles.length ? say(found.length < tiles.length ? "shown" : "all", count) : "";
  clear();
  render();
}

function clear() {
  for (const element of made.values()) element.remove();
  made.clear();
}

function render() {
  const from = list.scrollTop - MORE_PX, to = list.scrollTop + list.clientHeight + MORE_PX;
  const visible = rows.filter(({ top, height }) => top + height >= from && top <= to);
  const keys = new Set(visible.map(({ key }) => key));
  for (const [key, element] of made) {
    if (!keys.has(key)) { element.remove(); made.delete(key); }
  }
  for (const row of visible) {
    if (!made.has(row.key)) made.set(row.key, row.pair ? pairOf(row) : headOf(row));
    const element = made.get(row.key);
    if (!element.isConnected) list.append(element);
  }
  mark();
}

function headOf({ top, scene }) {
  const head = document.createElement("div");
  head.className = "scene";
  head.style.top = `${top}px`;
  head.textContent = scene; head.title = scene;
  return head;
}

function pairOf({ top, pair }) {
  const row = document.createElement("div");
  row.className = "pair";
  row.style.top = `${top}px`;
  row.append(...pair.map(thumbnail));
  return row;
}

function thumbnail({ i, name, scene, lines, decided }) {
  const button = document.createElement("button"), image = document.createElement("img");
  const line = document.createElement("span"), short = document.createElement("b"), count = document.createElement("i");
  button.type = "button"; button.className = "thumbnail"; button.dataset.i = i; button.title = name;
  button.setAttribute("aria-label", say("thumbnail", { name, n: lines }));
  image.alt = ""; image.decoding = "async"; image.src = `/api/${work}/tiles/${i}/thumbnail`;
  short.textContent = name.startsWith(`${scene}_`) ? name.slice(scene.length + 1) : name;
  count.textContent = lines ? `${decided ? "✓ " : ""}${lines}` : "";
  line.append(short, count);
  button.append(image, line);
  button.addEventListener("click", () => choose(i));
  return button;
}

function mark() {
  for (const button of list.querySelectorAll(".thumbnail")) {
    if (Number(button.dataset.i) === current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

/** Mark a picture as the open one, and bring it into view. */
export function markTile(i) {
  current = i;
  const row = rows.find(({ pair }) => pair?.some((tile) => tile.i === i));
  if (row && (row.top < list.scrollTop || row.top + row.height > list.scrollTop + list.clientHeight)) {
    list.scrollTop = Math.max(0, row.top - list.clientHeight / 3);
  }
  render();
}

/** The picture `by` places after the open one, among those found. */
export function neighbour(by) {
  const order = rows.flatMap(({ pair }) => pair ?? []);
  return order[order.findIndex(({ i }) => i === current) + by]?.i;
}

/** Update the count of lines of the open picture. */
export function updateTile(i, changes) {
  const tile = tiles.find((each) => each.i === i);
  if (!tile || Object.entries(changes).every(([name, value]) => tile[name] === value)) return;
  Object.assign(tile, changes);
  for (const [key, element] of made) {
    const row = rows.find((each) => each.key === key);
    if (row?.pair?.includes(tile)) { element.replaceWith(pairOf(row)); made.delete(key); }
  }
  clear(); render();
}

list.addEventListener("scroll", render, { passive: true });
search.addEventListener("input", () => { list.scrollTop = 0; arrange(); });
new ResizeObserver(render).observe(list);
