// Open pictures: paths on this computer, chosen files, a folder, or files dropped on the page.

import { post, upload } from "/page/server.js";
import { say } from "/page/words.js";

const ENDINGS = /\.(jpe?g|jpe|jfif|png|tiff?|zip|tar|csv|json|zip\.part\d+)$/i;
const dialog = document.getElementById("opening"), trouble = document.getElementById("opening-error");
const stage = document.getElementById("stage");
let opened = () => {}, tell = () => {};

/** `whenOpened(work)` is called with the key of what was opened, `show(text)` with the progress. */
export function connect(whenOpened, show) { opened = whenOpened; tell = show; }

export function openDialog() { trouble.textContent = ""; dialog.showModal(); }

async function open(request) {
  try {
    const { work } = await post("/api/open", request);
    dialog.close();
    await opened(work);
  } catch (error) {
    report(error.message);
  }
}

function report(sentence) {
  if (dialog.open) trouble.textContent = sentence;
  else tell(sentence);
}

async function send(files) {
  const known = files.filter(({ name }) => ENDINGS.test(name) && !name.startsWith("."));
  if (!known.length) return report(say("noFiles"));
  const dropped = [];
  try {
    for (const [i, file] of known.entries()) {
      report(say("uploading", { n: i + 1, all: known.length, name: file.name }));
      dropped.push((await upload(file)).number);
    }
  } catch (error) {
    return report(error.message);
  }
  tell("");
  await open({ dropped });
}

/** All files of what was dropped, folders included. */
async function dropped(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()).filter(Boolean);
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (entry instanceof File) return [entry];
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), inside = [];
  for (;;) { // a reader gives at most a hundred entries at once
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    inside.push(...some);
  }
  return (await Promise.all(inside.map(filesOf))).flat();
}

for (const id of ["files", "folder"]) {
  document.getElementById(id).addEventListener("change", (event) => send([...event.target.files]).then(() => { event.target.value = ""; }));
}
document.getElementById("open-paths").addEventListener("click", () => {
  const path = (id) => { const value = document.getElementById(id).value.trim(); return value ? [value] : []; };
  open({ images: path("images-path"), polylines: path("polylines-path") });
});
for (const id of ["images-path", "polylines-path"]) {
  document.getElementById(id).addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); document.getElementById("open-paths").click(); }
  });
}
window.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("dropping"); });
window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) stage.classList.remove("dropping"); });
window.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("dropping");
  dropped(event.dataTransfer.items).then(send);
});
