// The measuring page: connects the list of pictures, the drawing, the cards and the review.

import * as chimneys from "/page/chimneys.js";
import { Lines } from "/page/lines.js";
import * as opening from "/page/opening.js";
import * as review from "/page/review.js";
import { get, Refused } from "/page/server.js";
import * as stage from "/page/stage.js";
import * as tiles from "/page/tiles.js";
import { say, switchLanguage, translate } from "/page/words.js";

const $ = (id) => document.getElementById(id);
let model = null, work = null, kept = "", lines = null, chosen = null, drawing = null, savedState = "saved";

// --- What is open: the address after # names it, so that a reload shows it again.

async function openWork(key, image) {
  const listed = await get(`/api/${key}/tiles`);
  work = key;
  $("where").textContent = listed.where;
  kept = listed.temporary ? say("keptTemporary") : say("kept", { file: listed.file });
  tiles.showTiles(key, listed.tiles);
  const notes = ["unread", "lost"].filter((name) => listed[name]).map((name) => say(name, { n: listed[name] }));
  notify(notes.join(" "));
  review.refresh(key, kept).catch(failed);
  $("take").disabled = false;
  for (const link of document.querySelectorAll(".map")) link.hidden = !listed.located;
  await openTile(listed.tiles.some(({ i }) => i === image) ? image : listed.tiles[0].i);
  if (listed.labels) selectTab("review");
}

async function openTile(i, id = null) {
  await lines?.save();
  let tile;
  try {
    tile = await get(`/api/${work}/tiles/${i}`);
  } catch (error) {
    return failed(error);
  }
  chosen = null;
  chimneys.forget();
  $("empty").hidden = true;
  $("picture").alt = tile.name;
  lines = new Lines(work, tile, $("pool").checked, {
    changed, heights, conflict, refused: failed,
    saved: (state) => { savedState = state; showState(); if (state === "saved") afterSaving(); },
  });
  stage.show(`/api/${work}/tiles/${i}/picture`, tile.width, tile.height);
  tiles.markTile(i);
  history.replaceState(null, "", `#${work}/${i}`);
  if (id !== null && lines.get(id)) {
    choose(id);
    stage.focusOn(lines.get(id).points);
  }
  changed();
}

function afterSaving() {
  tiles.updateTile(lines.tile.i, { lines: lines.all().length, decided: lines.all().filter(({ content }) => content).length });
  review.refresh(work, kept).catch(failed);
}

// --- Lines.

function changed() {
  const all = lines.all();
  if (chosen !== null && !lines.get(chosen)) chosen = null;
  stage.showLines(all.map((line, i) => ({
    id: line.id, number: i + 1, points: line.points, dropped: line.verdict === "drop",
    height: lines.answers[line.id] && line.verdict !== "drop" ? say("metres", { h: lines.answers[line.id].height }) : "",
  })), chosen);
  chimneys.showChimneys(all, { chosen, answers: lines.answers, model, on: cardActions });
  $("undo").disabled = !lines.done.length;
  $("redo").disabled = !lines.undone.length;
  const pooled = lines.pooled > 1 ? say("pooled", { n: lines.pooled }) : all.length > 1 ? say("single") : "";
  const bar = say("barNote", { mean: model.mean.toFixed(0), std: model.std.toFixed(0) });
  $("pooled").textContent = all.length ? [pooled, model.calibrated ? "" : say("uncalibrated"), bar].filter(Boolean).join(" ") : "";
  showState();
}

let speakTimer = 0;
function heights() {
  changed();
  clearTimeout(speakTimer);
  speakTimer = setTimeout(() => {
    const at = lines.all().findIndex(({ id }) => id === chosen), answer = lines.answers[chosen];
    if (at >= 0 && answer) $("spoken").textContent = say("heightSpoken", { who: chimneys.nameOf(lines.all()[at], at + 1), h: answer.height, s: answer.sigma });
  }, 500);
}

function choose(id) {
  if (chosen === id) return;
  chosen = id;
  changed();
  chimneys.scrollTo(id);
  review.show(`${lines.tile.i}/${id}`);
}

function content(line, points = line.points, verdict = line.given ? (line.verdict === "drop" ? "drop" : "correct") : "drawn") {
  return { points, verdict, height: line.stated };
}

stage.connect({
  choose,
  change(id, points, when) {
    if (when === "while") return lines.preview(id, points);
    lines.commit(id, content(lines.get(id), points), when === "nudge" ? when : "");
  },
  draw(points, when) {
    if (when === "cancel") {
      if (drawing !== null) lines.preview(drawing, undefined);
      drawing = null;
      return;
    }
    drawing ??= newId();
    if (chosen !== drawing) chosen = drawing;
    if (when === "while") return lines.preview(drawing, points);
    lines.commit(drawing, { points, verdict: "drawn", height: null });
    drawing = null;
  },
  viewed: () => showState(),
});

const newId = () => `n-${crypto.getRandomValues(new Uint32Array(3)).reduce((text, part) => text + part.toString(36), "")}`;

function addInTheMiddle() {
  if (!lines) return;
  const [x, y] = stage.middle(), id = newId(), reach = 0.06 * Math.max(lines.tile.width, lines.tile.height);
  const top = [Math.min(lines.tile.width, x + reach), Math.max(0, y - reach)].map((value) => Math.round(value));
  lines.commit(id, { points: [[Math.round(x), Math.round(y)], top], verdict: "drawn", height: null });
  choose(id);
  stage.focusEnd(id, 0);
}

function remove(id) {
  const line = lines?.get(id);
  if (line) lines.commit(id, line.given && line.verdict !== "drop" ? content(line, line.points, "drop") : null);
}

function decide(id, verdict) {
  const line = lines?.get(id);
  if (!line?.given) return;
  const points = verdict === "accept" ? line.given : line.points;
  lines.commit(id, { points, verdict, height: verdict === "correct" ? line.stated : null });
  if (verdict === "correct") return;
  lines.save().then(() => { if (!$("review").hidden) review.step(1, true); });
}

const cardActions = {
  choose, decide,
  remove: (id) => lines.commit(id, null),
  state(id, height) {
    const line = lines.get(id);
    if (height !== null && !(height > 0 && height < 10000)) return changed();
    lines.commit(id, { points: line.points, verdict: line.given ? "correct" : "drawn", height });
  },
};

function conflict(ids) {
  const at = lines.all().findIndex(({ id }) => ids.includes(id)), line = lines.all()[at];
  notify(say("conflict", { who: line ? chimneys.nameOf(line, at + 1) : say("chimneys") }));
}

// --- Messages.

let noticeTimer = 0;
function notify(sentence) {
  clearTimeout(noticeTimer);
  $("notice").textContent = sentence;
  $("notice").hidden = !sentence;
  if (sentence) noticeTimer = setTimeout(() => { $("notice").hidden = true; }, 12000);
}

function failed(error) {
  notify(error instanceof Refused ? error.message : say("gone"));
}

function showState() {
  if (!lines) return;
  const { name, width, height } = lines.tile;
  $("state").textContent = `${say("position", { name, width, height, zoom: stage.zoomPercent() })} · ${say(savedState)}`;
}

// --- Controls.

function selectTab(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const selected = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
  }
  for (const id of ["chimneys", "review", "decisions"]) $(id).hidden = id !== name;
  document.body.classList.toggle("listing", name === "tiles");
}

const tabs = ["tiles", "chimneys", "review", "decisions"];
for (const name of tabs) {
  $(`tab-${name}`).addEventListener("click", () => selectTab(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const shown = tabs.filter((each) => $(`tab-${each}`).offsetParent);
    const next = shown[(shown.indexOf(name) + by + shown.length) % shown.length];
    selectTab(next);
    $(`tab-${next}`).focus();
  });
}

function setMode(mode) {
  for (const id of ["draw", "move"]) $(id).setAttribute("aria-pressed", String(id === mode));
  stage.setMode(mode);
}

const clicks = {
  open: opening.openDialog, "open-first": opening.openDialog, add: addInTheMiddle,
  draw: () => setMode("draw"), move: () => setMode("move"), undo: () => lines?.undo(), redo: () => lines?.redo(),
  in: () => stage.zoomBy(1.4), out: () => stage.zoomBy(1 / 1.4), fit: stage.fit,
  take: () => { $("taking-error").textContent = ""; $("taking").showModal(); }, help: () => $("helping").showModal(),
  language: () => { switchLanguage(); openAgain(); },
  "predict-all": () => review.predictAll().catch(failed), previous: () => review.step(-1), next: () => review.step(1),
};
for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);

function openAgain() {
  if (work) openWork(work, lines.tile.i).then(() => selectTab("chimneys")).catch(failed);
}

$("pool").addEventListener("change", () => { if (lines) { lines.pool = $("pool").checked; lines.askHeights(); } });

for (const [id, file] of [["take-csv", "heights.csv"], ["take-via", "heights.json"], ["take-labels", "labels.zip"],
  ["take-geojson", "heights.geojson"], ["take-gpkg", "heights.gpkg"]]) {
  $(id).href = "#";
  $(id).addEventListener("click", async (event) => {
    event.preventDefault();
    await lines?.save();
    const response = await fetch(`/api/${work}/files/${file}?pool=${$("pool").checked}`).catch(() => null);
    if (!response?.ok) {
      $("taking-error").textContent = response ? (await response.json()).error : say("gone");
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = decodeURIComponent(response.headers.get("content-disposition").split("''")[1]);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    $("taking").close();
    const leftOut = Number(response.headers.get("x-left-out") ?? 0);
    if (leftOut) notify(say("leftOut", { n: leftOut }));
  });
}

const keys = {
  n: addInTheMiddle, d: () => setMode("draw"), m: () => setMode("move"),
  "+": () => stage.zoomBy(1.4), "=": () => stage.zoomBy(1.4), "-": () => stage.zoomBy(1 / 1.4), 0: stage.fit,
  "[": () => openNeighbour(-1), "]": () => openNeighbour(1), Delete: () => remove(chosen), Backspace: () => remove(chosen),
  a: () => decide(chosen, "accept"), c: () => decide(chosen, "correct"), x: () => decide(chosen, "drop"),
  j: () => review.step(1), k: () => review.step(-1), "?": () => $("helping").showModal(),
};
window.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select") || document.querySelector("dialog[open]")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y")) {
    event.preventDefault();
    if (key === "y" || event.shiftKey) lines?.redo(); else lines?.undo();
  } else if (keys[key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    keys[key]();
  }
});

function openNeighbour(by) {
  const i = tiles.neighbour(by);
  if (i !== undefined) openTile(i);
}

window.addEventListener("focus", () => lines?.reload().catch(() => {}));
window.addEventListener("beforeunload", (event) => { if (lines?.pending.size) { lines.save(); event.preventDefault(); } });

// --- The start.

tiles.connect((i) => { openTile(i); if (document.body.classList.contains("listing")) selectTab("chimneys"); });
review.connect({ audited: () => lines?.reload().catch(() => {}), go: (i, id) => (lines?.tile.i === i ? (choose(id), lines.get(id) && stage.focusOn(lines.get(id).points)) : openTile(i, id)) });
opening.connect((key) => openWork(key), notify);

async function start() {
  translate();
  setMode("draw");
  selectTab("chimneys");
  $("take").disabled = true;
  model = await get("/api/model");
  const [key, image] = location.hash.slice(1).split("/");
  try {
    if (key || model.work) await openWork(key || model.work, Number(image));
  } catch (error) {
    if (!(error instanceof Refused && error.status === 410)) throw error;
    if (model.work) await openWork(model.work);
  }
}
start().catch(failed);
