// The page: opens the stream while someone looks, and gives each camera its tile.

import { forgetColours } from "./page.js";
import { Stream } from "./stream.js";
import { Tile } from "./tile.js";

const WIDTHS_PX = [320, 640, 960, 1280]; // those the server makes
const TIMELINE_MS = 66; // fifteen drawings a second look smooth and cost little
const SETTLE_MS = 400; // scrolling and resizing are let finish before asking for something else

const byId = (id) => document.getElementById(id);
const tiles = new Map();
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let classes = [];
let paused = false;
let pictures = localStorage.getItem("pictures") !== "off";
let query = "";
let settle = 0;

const stream = new Stream(onMessage, onState);

function onMessage(header, picture) {
  if (header.type === "status") showStatus(header);
  else if (header.type === "frame") tiles.get(header.camera)?.frame(header, picture, classes);
}

function onState(state) {
  const words = { waiting: "Connecting", open: "Live", lost: "Connection lost, trying again", closed: paused ? "Paused" : "Not watching" };
  byId("link").dataset.state = state;
  if (byId("link-text").textContent !== words[state]) byId("link-text").textContent = words[state];
}

function showStatus({ about, cameras }) {
  classes = about.classes;
  const names = new Set(cameras.map((view) => view.name));
  for (const [name, tile] of tiles) {
    if (names.has(name)) continue;
    observer.unobserve(tile.node);
    tile.node.remove();
    tiles.delete(name);
  }
  const news = cameras.map((view) => tileOf(view.name).status(view)).filter(Boolean);
  if (news.length) byId("announcer").textContent = news.join(". ");
  byId("empty").hidden = cameras.length > 0;
  byId("empty").textContent = "No camera is configured.";
  showTotals(cameras);
  byId("purpose").hidden = !about.purpose;
  byId("purpose").replaceChildren(strong("Purpose"), ` ${about.purpose}`);
  const engines = [...new Set(Object.values(about.engines))].join("; ");
  byId("about").textContent = `streamer ${about.version} · ${about.bundle} · ${engines}`;
}

function showTotals(cameras) {
  const online = cameras.filter((view) => view.state === "online");
  const latencies = online.map((view) => view.latency_ms).filter((value) => value !== null);
  byId("total-cameras").textContent = `${online.length} of ${cameras.length}`;
  byId("total-faces").textContent = [...tiles.values()].reduce((sum, tile) => sum + tile.faces, 0);
  byId("total-fps").textContent = `${online.reduce((sum, view) => sum + view.analysed_fps, 0).toFixed(1)} fps`;
  byId("total-latency").textContent = latencies.length ? `${Math.round(Math.max(...latencies))} ms` : "–";
  document.title = `${online.length}/${cameras.length} online · streamer`;
}

function strong(text) {
  const made = document.createElement("strong");
  made.textContent = text;
  return made;
}

function tileOf(name) {
  let tile = tiles.get(name);
  if (!tile) {
    tile = new Tile(name, expand);
    tiles.set(name, tile);
    byId("cameras").append(tile.node);
    observer.observe(tile.node);
  }
  return tile;
}

function expand(tile) {
  const wide = !tile.expanded;
  for (const other of tiles.values()) other.expanded = other === tile && wide;
  if (wide) tile.node.scrollIntoView({ block: "nearest" });
  ask();
}

// Only what is on the screen is asked for, no larger than it is shown.
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const tile = tiles.get(entry.target.dataset.camera);
    if (tile) tile.visible = entry.isIntersecting;
  }
  ask();
}, { rootMargin: "200px" });

function wanted() {
  const all = [...tiles.values()];
  const seen = all.filter((tile) => tile.visible);
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const widest = Math.max(0, ...seen.map((tile) => tile.screen.clientWidth * ratio));
  const width = WIDTHS_PX.find((each) => each >= widest * 0.8) ?? WIDTHS_PX[WIDTHS_PX.length - 1];
  const parameters = new URLSearchParams({ width: tiles.size ? width : 640, pictures: pictures ? 1 : 0 });
  if (seen.length < all.length) parameters.set("cameras", seen.map((tile) => tile.name).join(","));
  return parameters.toString();
}

function ask() {
  clearTimeout(settle);
  settle = setTimeout(() => {
    if (paused || document.hidden || wanted() === query) return;
    query = wanted();
    stream.open(query);
  }, SETTLE_MS);
}

function watch() {
  clearTimeout(settle);
  query = "";
  if (paused || document.hidden) {
    stream.close();
    return;
  }
  onState("waiting");
  query = wanted();
  stream.open(query);
}

// Controls: buttons, and a letter for each.
function setPaused(value) {
  paused = value;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Resume" : "Pause";
  watch();
}

function setPictures(value) {
  pictures = value;
  localStorage.setItem("pictures", pictures ? "on" : "off");
  byId("pictures").setAttribute("aria-pressed", String(pictures));
  watch();
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  byId("theme").textContent = `Theme: ${theme}`;
  forgetColours();
}

function nextTheme() {
  const order = ["auto", "light", "dark"];
  const now = localStorage.getItem("theme") ?? "auto";
  setTheme(order[(order.indexOf(now) + 1) % order.length]);
}

byId("pause").addEventListener("click", () => setPaused(!paused));
byId("pictures").addEventListener("click", () => setPictures(!pictures));
byId("theme").addEventListener("click", nextTheme);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    p: () => setPaused(!paused),
    i: () => setPictures(!pictures),
    t: nextTheme,
    Escape: () => [...tiles.values()].filter((tile) => tile.expanded).forEach(expand),
  };
  actions[event.key]?.();
});
document.addEventListener("visibilitychange", watch);
addEventListener("resize", ask);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", forgetColours);

let drawn = 0;
function animate(now) {
  if (now - drawn >= (calm.matches ? 1000 : TIMELINE_MS) && !paused) {
    drawn = now;
    for (const tile of tiles.values()) if (tile.visible) tile.drawTimelines(now);
  }
  requestAnimationFrame(animate);
}
requestAnimationFrame(animate);
setInterval(() => tiles.forEach((tile) => tile.tick()), 1000);

setTheme(localStorage.getItem("theme") ?? "auto");
byId("pictures").setAttribute("aria-pressed", String(pictures));
watch();
