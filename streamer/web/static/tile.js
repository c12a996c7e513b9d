// One camera: its picture with boxes locked to it, its state, its faces.

import { Face, fitted } from "./face.js";
import { ago, colourOf, element, icon, inWords } from "./page.js";

const STALE_MS = 3_000; // an online camera without a picture for longer is shown as such
const SPOKEN_MS = 3_000; // how often the description of a picture changes
const EXPAND = "M9 3H3v6M15 3h6v6M9 21H3v-6M15 21h6v-6";
const SHRINK = "M3 9h6V3M21 9h-6V3M3 15h6v6M21 15h-6v6";
const OFFLINE = "M3 3l18 18M10.5 6H15a2 2 0 0 1 2 2v2.5l4-2.500v8M17 17v0a2 2 0 0 1-2 1H5a2 2 0 0 1-2-2V8a2 2 0 0 1 1-1.700";
const WAITING = "M12 7v5l3 2M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18";

/** A camera's tile. */
export class Tile {
  #faces = new Map();
  #waiting = null; // the newest message not drawn yet
  #busy = false;
  #shown = null; // the message on the screen
  #shown_at = 0;
  #bitmap = null;
  #spoken_at = 0;
  #view = null;
  #newest = { at: 0, arrived: 0 };

  constructor(name, onExpand) {
    this.name = name;
    this.visible = true;
    const id = `camera-${name}`;
    this.title = element("h2", "", name);
    this.title.id = id;
    this.pill_text = element("span");
    this.pill = element("p", "pill state", element("span", "dot"), this.pill_text);
    this.button = element("button", "", icon(EXPAND));
    this.button.type = "button";
    this.button.addEventListener("click", () => onExpand(this));
    this.canvas = element("canvas");
    this.canvas.setAttribute("role", "img");
    this.notice = element("div", "notice");
    this.screen = element("div", "screen", this.canvas, this.notice);
    this.facts = element("dl", "facts");
    this.list = element("ul", "faces");
    this.list.tabIndex = 0;
    this.list.setAttribute("aria-label", `Faces on ${name}`);
    const left = element("div", "left", this.screen, this.facts);
    this.node = element(
      "article", "tile",
      element("header", "", this.title, this.pill, this.button),
      element("div", "body", left, this.list),
    );
    this.node.dataset.camera = name;
    this.node.setAttribute("aria-labelledby", id);
    this.expanded = false;
    this.#showFaces([], 0, []);
  }

  set expanded(wide) {
    this.node.classList.toggle("wide", wide);
    this.button.setAttribute("aria-pressed", String(wide));
    this.button.setAttribute("aria-label", `${wide ? "Shrink" : "Expand"} ${this.name}`);
    this.button.title = wide ? "Shrink (Esc)" : "Expand";
    this.button.replaceChildren(icon(wide ? SHRINK : EXPAND));
  }

  get expanded() {
    return this.node.classList.contains("wide");
  }

  get faces() {
    return this.#faces.size;
  }

  /** Take the camera's state; returns words for a change that someone who cannot see wants to know. */
  status(view) {
    const before = this.#view;
    this.#view = view;
    if (view.state !== "online") this.#clear();
    this.#showFacts(view);
    this.tick();
    if (before && before.state !== view.state) {
      return `Camera ${this.name} is ${view.state}${view.reason ? `: ${inWords(view.reason)}` : ""}`;
    }
    return "";
  }

  /** Take a frame; while one is being decoded only the newest of those that come waits. */
  frame(header, jpeg, classes) {
    if (this.#view && this.#view.state !== "online") return;
    this.#waiting = { header, jpeg: jpeg.length ? new Blob([jpeg], { type: "image/jpeg" }) : null, classes };
    if (!this.#busy) this.#next();
  }

  async #next() {
    this.#busy = true;
    try {
      while (this.#waiting) {
        const message = this.#waiting;
        this.#waiting = null;
        await this.#show(message);
      }
    } finally {
      this.#busy = false; // a picture that cannot be decoded is not the last one
    }
  }

  async #show({ header, jpeg, classes }) {
    const bitmap = jpeg ? await createImageBitmap(jpeg) : null;
    if (this.#view && this.#view.state !== "online") {
      bitmap?.close(); // the camera went while this was being decoded
      return;
    }
    this.#bitmap?.close();
    this.#bitmap = bitmap;
    this.#shown = header;
    this.#shown_at = performance.now();
    this.#newest = { at: Date.parse(header.captured_at), arrived: this.#shown_at };
    this.draw();
    this.#showFaces(header.tracks, this.#newest.at, classes);
    this.tick();
  }

  /** Draw picture and boxes of one and the same frame. */
  draw() {
    const { width, height, ratio } = fitted(this.canvas);
    const paint = this.canvas.getContext("2d");
    paint.clearRect(0, 0, width, height);
    const frame = this.#shown;
    this.node.dataset.seq = frame ? frame.seq : "";
    if (!frame) return;
    this.screen.style.aspectRatio = `${frame.width} / ${frame.height}`;
    if (this.#bitmap) paint.drawImage(this.#bitmap, 0, 0, width, height);
    const scale = width / frame.width;
    for (const face of frame.tracks) this.#box(paint, face, scale, ratio, width);
    const now = performance.now();
    if (now - this.#spoken_at > SPOKEN_MS) {
      this.#spoken_at = now;
      const words = [...this.#faces.values()].map((face) => face.spoken).join(", ");
      this.canvas.setAttribute("aria-label", `Camera ${this.name}: ${words || "no face"}`);
    }
  }

  #box(paint, face, scale, ratio, width) {
    const [x1, y1, x2, y2] = face.box.map((value) => value * scale);
    const colour = colourOf(face.label, true);
    paint.beginPath();
    paint.roundRect(x1, y1, x2 - x1, y2 - y1, 8 * ratio);
    paint.lineWidth = 5 * ratio; // a dark rim, so that the box stands out from any picture
    paint.strokeStyle = "rgb(10 12 18 / 60%)";
    paint.stroke();
    paint.lineWidth = 2.5 * ratio;
    paint.strokeStyle = colour;
    paint.stroke();
    const best = Math.max(0, ...Object.values(face.probabilities));
    const sure = best > 0 && face.label !== "unknown";
    paint.font = `600 ${12.5 * ratio}px system-ui, sans-serif`;
    paint.textBaseline = "middle";
    const measured = (words) => paint.measureText(words).width + 16 * ratio;
    const fits = (words) => measured(words) <= 1.6 * (x2 - x1); // wider ones cover the neighbours in a crowd
    let text = sure ? `${face.label} ${Math.round(best * 100)}%` : face.label;
    if (!fits(text)) {
      if (!sure) return;
      text = face.label;
    }
    const size = { w: measured(text), h: 21 * ratio };
    const left = Math.min(Math.max(0, x1), Math.max(0, width - size.w));
    const top = y1 - size.h - 4 * ratio < 0 ? Math.max(0, y1) + 4 * ratio : y1 - size.h - 4 * ratio;
    paint.fillStyle = "rgb(10 12 18 / 78%)";
    paint.beginPath();
    paint.roundRect(left, top, size.w, size.h, 6 * ratio);
    paint.fill();
    paint.fillStyle = colour;
    paint.beginPath();
    paint.roundRect(left, top, 4 * ratio, size.h, [6 * ratio, 0, 0, 6 * ratio]);
    paint.fill();
    paint.fillStyle = "#fff";
    paint.fillText(text, left + 10 * ratio, top + size.h / 2 + ratio / 2);
  }

  #showFaces(tracks, at, classes) {
    const here = new Set(tracks.map((face) => face.track));
    for (const [track, face] of this.#faces) {
      face.node.classList.toggle("away", !here.has(track));
      if (here.has(track) || face.isRecent(at)) continue;
      face.node.remove();
      this.#faces.delete(track);
    }
    for (const reading of tracks) {
      let face = this.#faces.get(reading.track);
      if (!face) {
        face = new Face(reading.track, classes);
        this.#faces.set(reading.track, face);
        this.list.append(face.node);
      }
      face.update(reading, at);
    }
    const empty = this.list.querySelector(".nobody");
    if (this.#faces.size) empty?.remove();
    else if (!empty) this.list.append(element("li", "nobody", "No face in view."));
  }

  /** Draw the timelines as they are now. */
  drawTimelines(now) {
    if (!this.#faces.size) return;
    const at = this.#newest.at + (now - this.#newest.arrived);
    for (const face of this.#faces.values()) face.draw(at);
  }

  /** Say what changes with time alone. */
  tick() {
    const view = this.#view;
    const state = view?.state ?? "connecting";
    const age = performance.now() - this.#shown_at;
    const stale = state === "online" && this.#shown !== null && age > STALE_MS;
    this.node.dataset.state = stale ? "stale" : state;
    this.pill.dataset.state = stale ? "stale" : state;
    this.list.hidden = state !== "online" || (stale && !this.#faces.size);
    const since = view ? ago((Date.now() - Date.parse(view.since)) / 1000) : "";
    if (state === "offline") {
      this.pill_text.textContent = "Offline";
      this.#say(OFFLINE, inWords(view.reason), `offline for ${since}`);
    } else if (state === "connecting") {
      this.pill_text.textContent = "Connecting";
      this.#say(WAITING, "Connecting", view?.reason ? `after: ${inWords(view.reason)}` : "");
    } else if (stale) {
      this.pill_text.textContent = `No picture for ${ago(age / 1000)}`;
      this.#say(null);
    } else {
      this.pill_text.textContent = "Online";
      this.#say(this.#shown ? null : WAITING, "Waiting for a picture", "");
    }
  }

  #say(path, words = "", more = "") {
    this.notice.hidden = !path;
    if (!path) return;
    const key = `${words}|${more}`;
    if (this.notice.dataset.key === key) return;
    this.notice.dataset.key = key;
    this.notice.replaceChildren(icon(path), element("strong", "", words), element("span", "", more));
  }

  #showFacts(view) {
    const size = view.width ? `${view.width}×${view.height}` : "–";
    const latency = view.latency_ms === null ? "–" : `${Math.round(view.latency_ms)} ms`;
    const facts = [
      ["Captured", `${view.fps.toFixed(1)} fps`],
      ["Analysed", `${view.analysed_fps.toFixed(1)} fps`],
      ["Latency", latency],
      ["Stream", `${size}${view.codec ? ` ${view.codec}` : ""}`],
    ];
    const drops = Object.entries(view.dropped).filter(([, count]) => count > 0);
    const nodes = facts.map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value)));
    if (drops.length) {
      const words = drops.map(([reason, count]) => `${count.toLocaleString("en")} ${reason}`).join(", ");
      nodes.push(element("div", "drops", element("dt", "", "Not analysed"), element("dd", "", words)));
    }
    this.facts.replaceChildren(...nodes);
  }

  /** Take picture and faces away: what a camera saw last says nothing about now. */
  #clear() {
    this.#waiting = null;
    this.#shown = null;
    this.#bitmap?.close();
    this.#bitmap = null;
    this.canvas.setAttribute("aria-label", `Camera ${this.name}: no picture`);
    this.#showFaces([], Infinity, []);
    this.draw();
  }
}
