// One card for each chimney of the open picture: its height, how it compares, what is unusual, and the decision.

import { say } from "/page/words.js";

const SVG = "http://www.w3.org/2000/svg", BAR_PX = 300, DEVIATIONS = 3;
const cards = document.getElementById("cards");
const made = new Map();

/** `on`: choose(id), decide(id, verdict), state(id, height), remove(id), restore(id). */
export function showChimneys(lines, { chosen, answers, model, on }) {
  const ids = new Set(lines.map(({ id }) => id));
  for (const [id, card] of made) if (!ids.has(id)) { card.remove(); made.delete(id); }
  lines.forEach((line, i) => {
    if (!made.has(line.id)) made.set(line.id, build(line, on));
    const card = made.get(line.id);
    if (cards.children[i] !== card) cards.insertBefore(card, cards.children[i] ?? null);
    fill(card, line, i + 1, line.id === chosen, answers[line.id], model, on);
  });
  document.getElementById("none").hidden = lines.length > 0;
}

export function forget() { made.clear(); cards.replaceChildren(); }

export function scrollTo(id) { made.get(id)?.scrollIntoView({ block: "nearest" }); }

export function nameOf(line, number) { return say(line.given ? "labelled" : "chimney", { n: number }); }

/** A signed number with one decimal and a real minus. */
export const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;

function build(line, on) {
  const card = document.createElement("li");
  card.className = "card";
  card.dataset.id = line.id;
  const parts = {
    head: make("h2"), name: make("span"), remove: make("button"), height: make("p", "height"), interval: make("p", "interval"),
    bar: bar(), warnings: make("ul", "warnings"), facts: make("dl", "facts"),
    flags: make("ul", "warnings"), row: make("div", "row"), field: make("label"), input: make("input"), fieldName: make("span"),
  };
  parts.remove.type = "button";
  parts.remove.addEventListener("click", () => on.remove(line.id));
  parts.head.append(parts.name, parts.remove);
  Object.assign(parts.input, { type: "number", min: "0.01", max: "9999", step: "0.01", inputMode: "decimal" });
  parts.input.addEventListener("change", () => on.state(line.id, parts.input.value === "" ? null : Number(parts.input.value)));
  parts.field.append(parts.fieldName, parts.input);
  card.append(parts.head, parts.height, parts.interval, parts.bar, parts.warnings, parts.flags, parts.facts);
  if (line.given) {
    parts.verdicts = ["accept", "correct", "drop"].map((verdict) => {
      const button = make("button");
      button.type = "button"; button.dataset.verdict = verdict;
      button.addEventListener("click", () => on.decide(line.id, verdict));
      return button;
    });
    parts.row.append(...parts.verdicts);
    card.append(parts.row);
  }
  const second = make("div", "row");
  second.append(parts.field);
  card.append(second);
  card.addEventListener("pointerdown", () => on.choose(line.id));
  card.addEventListener("focusin", () => on.choose(line.id));
  card.parts = parts;
  return card;
}

function make(name, className = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  return element;
}

function fill(card, line, number, isChosen, answer, model) {
  const { parts } = card, isDropped = line.verdict === "drop";
  card.classList.toggle("chosen", isChosen);
  card.classList.toggle("dropped", isDropped);
  parts.name.textContent = nameOf(line, number);
  parts.remove.textContent = say(line.given ? "restore" : "delete");
  parts.remove.hidden = Boolean(line.given) && !line.content;
  parts.height.replaceChildren(...(answer ? heightTexts(answer) : [isDropped ? "–" : "…"]));
  parts.interval.textContent = !answer ? "" : say(answer.high === null ? "openEnd" : "interval", answer);
  fillBar(parts.bar, answer, model);
  texts(parts.warnings, (isDropped ? [] : answer?.unusual ?? []).map((each) => say(each.code, each)));
  texts(parts.flags, line.flags.map(reason));
  parts.facts.replaceChildren(...facts(line, answer).flatMap(([name, value]) => {
    const term = make("dt"), description = make("dd");
    term.textContent = name; description.textContent = value;
    return [term, description];
  }));
  parts.facts.hidden = !parts.facts.children.length;
  for (const button of parts.verdicts ?? []) {
    button.textContent = say(button.dataset.verdict);
    button.setAttribute("aria-pressed", String(button.dataset.verdict === line.verdict));
  }
  parts.fieldName.textContent = say(line.given ? "stated" : "statedDrawn");
  if (document.activeElement !== parts.input) parts.input.value = line.stated ?? line.label ?? "";
}

function heightTexts(answer) {
  const small = make("small");
  small.textContent = ` ${say("sigma", { s: answer.sigma })}`;
  return [say("metres", { h: answer.height }), small];
}

function facts(line, answer) {
  const label = line.stated ?? line.label, found = [];
  if (line.label !== null) found.push([say("labelIs"), `${line.label.toFixed(2)} m`]);
  if (line.given && line.scale !== null) found.push([say("formulaIs"), `${(line.scale * length(line.points)).toFixed(2)} m`]);
  if (label !== null && answer) found.push([say("differs"), `${signed(label - answer.metres)} m`]);
  return found;
}

const length = (points) => points.slice(1).reduce((sum, [x, y], i) => sum + Math.hypot(x - points[i][0], y - points[i][1]), 0);

/** What the audit says of a label, as a sentence. */
export function reason(flag) {
  return say(flag.code, { ...flag, by: flag.by === undefined ? "" : Math.abs(flag.by).toFixed(2) });
}

function texts(list, sentences) {
  list.replaceChildren(...sentences.map((sentence) => { const item = make("li"); item.textContent = sentence; return item; }));
}

// --- The bar: mean ± one standard deviation of the training heights, the interval, the height.

function bar() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("viewBox", `0 0 ${BAR_PX} 30`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const [name, className] of [["rect", "usual"], ["line", "track"], ["line", "mean"], ["line", "reach"], ["circle", ""]]) {
    const part = document.createElementNS(SVG, name);
    part.setAttribute("class", className);
    svg.append(part);
  }
  return svg;
}

function fillBar(svg, answer, { mean, std }) {
  const most = Math.max(mean + DEVIATIONS * std, answer ? Number(answer.height) * 1.1 : 0, 1);
  const x = (metres) => Math.min(BAR_PX - 8, Math.max(8, 8 + (metres / most) * (BAR_PX - 16)));
  const [usual, track, middle, reach, dot] = svg.children;
  set(usual, { x: x(mean - std), y: 6, width: x(mean + std) - x(mean - std), height: 18 });
  set(track, { x1: 8, x2: BAR_PX - 8, y1: 15, y2: 15 });
  set(middle, { x1: x(mean), x2: x(mean), y1: 6, y2: 24 });
  reach.style.display = dot.style.display = answer ? "" : "none";
  if (!answer) return;
  set(reach, { x1: x(Number(answer.low)), x2: x(answer.high === null ? most : Number(answer.high)), y1: 15, y2: 15 });
  set(dot, { cx: x(answer.metres), cy: 15, r: 6 });
  svg.setAttribute("aria-label", say("barLabel", { h: answer.height, mean: mean.toFixed(0) }));
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}
