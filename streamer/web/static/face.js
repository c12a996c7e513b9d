// One face: its label, the probabilities as bars, and how they moved over the last half minute.

import { colourOf, element } from "./page.js";

export const SPAN_MS = 30_000; // what the timeline shows
const GAP_MS = 1_000; // a face unseen for longer leaves a gap
const LINGER_MS = 1_500; // a face that the detector misses for a moment keeps its card

/** A face's card in the list of a tile. */
export class Face {
  #bars = new Map();
  #samples = []; // {at, shares}, oldest first
  #texts_at = 0;

  constructor(track, classes) {
    this.track = track;
    this.seen_at = 0;
    this.classes = classes;
    this.mark = element("span", "mark");
    this.label = element("span", "label");
    this.share = element("span", "share");
    const number = element("span", "number", `Face ${track}`);
    this.canvas = element("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    const timeline = element("div", "timeline", this.canvas, element("span", "span", `${SPAN_MS / 1000} s`));
    const bars = element("ul", "bars", ...classes.map((name) => this.#bar(name)));
    const heading = element("h3", "", this.mark, this.label, number, this.share);
    this.node = element("li", "face", heading, element("div", "reading", bars, timeline));
    this.node.dataset.track = track;
  }

  #bar(name) {
    const fill = element("span", "fill");
    const value = element("span", "value");
    const row = element("li", "bar", element("span", "name", name), element("span", "track", fill), value);
    row.style.setProperty("--colour", colourOf(name));
    this.#bars.set(name, { row, fill, value });
    return row;
  }

  /** Whether it was seen within what a tracker bridges, at the time of another frame. */
  isRecent(at) {
    return at - this.seen_at <= LINGER_MS;
  }

  /** Take one reading; `at` is when its frame was captured, in milliseconds since the epoch. */
  update(reading, at) {
    this.seen_at = at;
    const shares = this.classes.map((name) => reading.probabilities[name] ?? 0);
    if (shares.some((share) => share > 0)) this.#samples.push({ at, shares });
    while (this.#samples.length && this.#samples[0].at < at - SPAN_MS - GAP_MS) this.#samples.shift();
    const best = shares.indexOf(Math.max(...shares));
    this.classes.forEach((name, k) => {
      this.#bars.get(name).fill.style.transform = `scaleX(${shares[k].toFixed(3)})`;
    });
    if (at - this.#texts_at < 200 && reading.label === this.label.textContent) return; // legible
    this.#texts_at = at;
    this.label.textContent = reading.label;
    this.share.textContent = shares[best] > 0 && reading.label !== "unknown" ? percent(shares[best]) : "";
    this.mark.style.setProperty("--colour", colourOf(reading.label));
    this.classes.forEach((name, k) => {
      const { row, value } = this.#bars.get(name);
      row.classList.toggle("best", k === best && shares[k] > 0);
      value.textContent = percent(shares[k]);
    });
  }

  /** Draw the timeline as it is at `now`: stacked shares, so that every height sums to one. */
  draw(now) {
    const { width, height } = fitted(this.canvas);
    const paint = this.canvas.getContext("2d");
    paint.clearRect(0, 0, width, height);
    const x = (at) => width * (1 - (now - at) / SPAN_MS);
    for (const run of runs(this.#samples)) {
      const last = run[run.length - 1];
      const held = Math.min(now, last.at + GAP_MS / 2); // up to the next reading the last one holds
      const points = [...run, { at: held, shares: last.shares }];
      let below = points.map(() => 0);
      this.classes.forEach((name, k) => {
        const above = points.map((p, i) => below[i] + p.shares[k]);
        paint.beginPath();
        points.forEach((p, i) => paint.lineTo(x(p.at), height * (1 - above[i])));
        for (let i = points.length - 1; i >= 0; i -= 1) paint.lineTo(x(points[i].at), height * (1 - below[i]));
        paint.closePath();
        paint.fillStyle = colourOf(name, true);
        paint.fill();
        below = above;
      });
    }
  }

  /** What a person hears about this face. */
  get spoken() {
    return `face ${this.track} ${this.label.textContent} ${this.share.textContent}`;
  }
}

function percent(share) {
  return `${Math.round(share * 100)}%`;
}

/** Cut samples where the face was not seen. */
function runs(samples) {
  const found = [];
  samples.forEach((sample, i) => {
    if (i === 0 || sample.at - samples[i - 1].at > GAP_MS) found.push([]);
    found[found.length - 1].push(sample);
  });
  return found;
}

/** Give a canvas as many pixels as it covers and return them. */
export function fitted(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  return { width, height, ratio };
}
