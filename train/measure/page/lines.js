// The lines of the open picture: what they are now, undo and redo, saving after each change, and live heights.
//
// A line's content is {points, verdict, height}, or null for a label nobody decided on and for a line that is not there.
// Saves are sent one after the other; each names the version of the line that this page has seen. If another page was
// faster, the server keeps that version and says so, and it is shown here.

import { get, post, Refused } from "/page/server.js";

const SAVE_AFTER = 150, SAVE_AGAIN_AFTER = 2000, ONE_UNDO_WITHIN = 700; // milliseconds

export class Lines {
  /** `on`: changed(), saved(state), heights(), conflict(ids), refused(error). */
  constructor(work, tile, pool, on) {
    Object.assign(this, { work, tile, pool, on, undone: [], done: [], pending: new Set(), answers: {}, pooled: 0 });
    this.map = new Map(tile.lines.map((line) => [line.id, read(line)]));
    this.askHeights();
  }

  get path() { return `/api/${this.work}/tiles/${this.tile.i}`; }
  all() { return [...this.map.values()].filter(({ points }) => points); }
  get(id) { return this.map.get(id)?.points ? this.map.get(id) : undefined; }

  /** Show a change that is not finished, such as a drag; without points, show the line as it was. */
  preview(id, points) {
    const line = this.map.get(id) ?? added(this.map, id);
    line.preview = points;
    this.on.changed();
    this.askHeights();
  }

  /** Make a change that can be undone and is saved; changes of one `kind` that follow each other are undone together. */
  commit(id, content, kind = "") {
    const line = this.map.get(id) ?? added(this.map, id);
    line.preview = undefined;
    const last = this.done.at(-1), now = Date.now();
    if (kind && last?.id === id && last.kind === kind && now - last.at < ONE_UNDO_WITHIN) last.at = now;
    else this.done.push({ id, kind, before: line.content, at: now });
    this.undone = [];
    this.put(line, content);
  }

  undo() { this.step(this.done, this.undone); }
  redo() { this.step(this.undone, this.done); }
  step(from, to) {
    const change = from.pop(), line = change && this.map.get(change.id);
    if (!line) return;
    to.push({ id: change.id, kind: "", before: line.content, at: 0 });
    this.put(line, change.before);
  }

  put(line, content) {
    line.content = content;
    line.preview = undefined;
    this.pending.add(line.id);
    this.on.changed();
    this.on.saved("saving");
    this.askHeights();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), SAVE_AFTER);
  }

  /** Save all pending changes now; resolves when they are written, or cannot be. */
  save() {
    clearTimeout(this.timer);
    this.saving = (this.saving ?? Promise.resolve()).then(() => this.saveOnce());
    return this.saving;
  }

  async saveOnce() {
    const ids = [...this.pending];
    this.pending.clear();
    // A deletion of what the server never had needs no request.
    const changes = ids.map((id) => this.map.get(id)).filter((line) => line.content || line.version)
      .map(({ id, version, content }) => ({ id, since: version, ...(content ?? { points: null }) }));
    if (!changes.length) { this.on.saved("saved"); return; }
    try {
      const { tile, conflicts } = await post(`${this.path}/lines`, { changes });
      this.merge(tile, conflicts);
    } catch (error) {
      if (!(error instanceof Refused)) {
        ids.forEach((id) => this.pending.add(id));
        this.timer = setTimeout(() => this.save(), SAVE_AGAIN_AFTER);
      } else {
        await this.reload();
      }
      this.on.refused(error);
    }
  }

  merge(tile, conflicts) {
    const theirs = new Map(tile.lines.map((line) => [line.id, read(line)]));
    for (const [id, line] of theirs) {
      const mine = this.map.get(id);
      if (!mine) this.map.set(id, line);
      else if (conflicts.includes(id) || !this.pending.has(id)) Object.assign(mine, line);
      else mine.version = line.version;
    }
    for (const [id, mine] of this.map) {
      if (theirs.has(id)) continue;
      mine.version = 0;
      if (!this.pending.has(id)) mine.content = null;
    }
    if (conflicts.length) {
      this.done = this.done.filter(({ id }) => !conflicts.includes(id));
      this.undone = this.undone.filter(({ id }) => !conflicts.includes(id));
      this.on.conflict(conflicts);
    }
    this.on.saved(this.pending.size ? "saving" : "saved");
    this.on.changed();
    this.askHeights();
  }

  /** Show what the server has, for example what another page has drawn. */
  async reload() {
    if (!this.pending.size) this.merge(await get(this.path), []);
  }

  /** Ask for the heights of all lines as they are now; one request at a time, and the last state is always asked for. */
  async askHeights() {
    this.asked = true;
    if (this.asking) return;
    this.asking = true;
    try {
      while (this.asked) {
        this.asked = false;
        const lines = Object.fromEntries(this.all().filter(({ verdict }) => verdict !== "drop").map(({ id, points }) => [id, points]));
        const key = JSON.stringify([lines, this.pool]);
        if (key === this.answered) continue;
        const { heights, pooled } = Object.keys(lines).length ? await post(`${this.path}/heights`, { lines, pool: this.pool }) : { heights: {}, pooled: 0 };
        Object.assign(this, { answers: { ...this.answers, ...heights }, pooled, answered: key });
        this.on.heights();
      }
    } catch (error) {
      this.on.refused(error);
    } finally {
      this.asking = false;
    }
  }
}

/** A line of the server as this page holds it. */
function read({ id, points, given, label, formula, version, verdict, height, flags }) {
  return Object.assign(Object.create(shown), { id, given, label, scale: formula, version, flags,
    content: verdict ? { points, verdict, height } : null });
}

function added(map, id) {
  const line = Object.assign(Object.create(shown), { id, given: null, label: null, scale: null, version: 0, flags: [], content: null });
  map.set(id, line);
  return line;
}

const shown = {
  get points() { return this.preview ?? this.content?.points ?? this.given; },
  get verdict() { return this.content?.verdict ?? ""; },
  get stated() { return this.content?.height ?? null; },
};
