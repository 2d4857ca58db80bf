// The queue of labels worth a look, and the table of decisions.

import { reason, signed } from "/page/chimneys.js";
import { get, post } from "/page/server.js";
import { say } from "/page/words.js";

const MOST_SHOWN = 200, ASK_AGAIN_AFTER = 1000; // milliseconds
const VERDICTS = { drawn: "drawn", accept: "accepted", correct: "corrected", drop: "dropped" };
const audit = document.getElementById("audit"), list = document.getElementById("queue");

let queue = [], decided = [], progress = null, file = "", on = {}, work = null, timer = 0, current = "";

/** `callbacks`: go(i, id) opens a label, audited() when the audit has ended. */
export function connect(callbacks) { on = callbacks; }

const keyOf = ({ i, id }) => `${i}/${id}`;

export async function refresh(key, kept = file) {
  clearTimeout(timer);
  if (work !== key) { progress = null; queue = []; decided = []; }
  work = key; file = kept;
  const asked = key, answer = await get(`/api/${key}/review`);
  if (asked !== work) return;
  const begun = progress && !progress.audited;
  ({ queue, decided, ...progress } = answer);
  if (begun && progress.audited) on.audited();
  show();
  if (!progress.audited || progress.predicting) timer = setTimeout(() => refresh(work).catch(() => {}), ASK_AGAIN_AFTER);
}

export async function predictAll() {
  await post(`/api/${work}/review`, {});
  await refresh(work);
}

export function show(chosen = current) {
  current = chosen;
  if (!progress) return;
  const verdicts = new Map(decided.map((row) => [keyOf(row), row.verdict]));
  const flagged = queue.filter(({ flags }) => flags.length).length;
  const counts = { n: progress.labels.toLocaleString(), known: progress.known.toLocaleString(), flagged: flagged.toLocaleString() };
  const state = progress.predicting ? "working" : !progress.audited ? "auditing" : progress.labels ? "audited" : "noLabels";
  audit.textContent = [say(state, counts), progress.trouble, queue.length ? say("alone") : ""].filter(Boolean).join(" ");
  const button = document.getElementById("predict-all");
  button.hidden = !progress.labels;
  button.disabled = progress.predicting || progress.known >= progress.labels;
  for (const id of ["previous", "next"]) document.getElementById(id).disabled = !queue.length;
  const items = queue.slice(0, MOST_SHOWN).map((row) => item(row, verdicts.get(keyOf(row))));
  if (queue.length > MOST_SHOWN) {
    const rest = document.createElement("li");
    rest.className = "muted";
    rest.textContent = say("more", { n: (queue.length - MOST_SHOWN).toLocaleString() });
    items.push(rest);
  }
  list.replaceChildren(...items);
  showDecisions();
}

function item(row, verdict) {
  const entry = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.append(text("b", "", row.name));
  const facts = [];
  if (row.label !== null) facts.push(say("labelShort", { label: row.label.toFixed(1) }));
  if (row.height !== null) facts.push(say("predictedShort", { height: row.height.toFixed(1) }), `${signed(row.label - row.height)} m`);
  button.append(text("span", "", facts.join(" · ")));
  for (const flag of row.flags) button.append(text("span", "reason", reason(flag)));
  if (verdict) button.append(text("span", "done", ` ${say(VERDICTS[verdict])}`));
  if (keyOf(row) === current) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => on.go(row.i, row.id));
  entry.append(button);
  return entry;
}

function showDecisions() {
  document.getElementById("kept").textContent = decided.length ? `${file} · ${say("alone")}` : `${say("nothing")} ${file}`;
  const rows = decided.map((row) => {
    const line = document.createElement("tr"), head = document.createElement("td"), button = document.createElement("button");
    button.type = "button";
    button.textContent = row.name;
    button.addEventListener("click", () => on.go(row.i, row.id));
    head.append(button);
    const height = row.stated ?? row.label;
    line.append(head, text("td", "number", height === null ? "–" : height.toFixed(1)),
      text("td", "number", row.height === null ? "–" : row.height.toFixed(1)), text("td", "", say(VERDICTS[row.verdict])));
    return line;
  });
  document.getElementById("decided").replaceChildren(...rows);
}

function text(name, className, content) {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = content;
  return element;
}

/** Open the label `by` places after the chosen one; with `undecided`, the next one that nobody has decided on. */
export function step(by, undecided = false) {
  const verdicts = new Set(decided.map(keyOf));
  let at = queue.findIndex((row) => keyOf(row) === current);
  do at += by; while (undecided && queue[at] && verdicts.has(keyOf(queue[at])));
  if (queue[at]) on.go(queue[at].i, queue[at].id);
}
