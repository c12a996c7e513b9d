// What every part of the page shares: elements, colours, words.

const SPARE = ["--disgust", "--fear", "--surprise", "--anger", "--contempt", "--happiness", "--sadness"];
const resolved = new Map();

/** Make an element with a class and children, which are elements or text. */
export function element(tag, classes = "", ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children);
  return made;
}

/** Make one of the page's icons from its path. */
export function icon(path) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** The colour of an expression: as a CSS variable, or resolved for a canvas. */
export function colourOf(name, forCanvas = false) {
  if (!resolved.has(name)) {
    const known = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    const sum = [...name].reduce((total, letter) => total + letter.codePointAt(0), 0);
    const variable = known ? `--${name}` : name === "unknown" ? "--neutral" : SPARE[sum % SPARE.length];
    const value = getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
    resolved.set(name, { variable: `var(${variable})`, value });
  }
  return forCanvas ? resolved.get(name).value : resolved.get(name).variable;
}

/** Forget resolved colours, after the theme changed. */
export function forgetColours() {
  resolved.clear();
}

/** A duration in words that fit a line. */
export function ago(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

const REASONS = {
  connection_refused: "The camera refuses connections",
  timeout: "No answer in time",
  auth_failed: "User name or password is wrong",
  not_found: "There is no such stream",
  unreachable: "The network does not reach it",
  name_resolution: "Its host name is unknown",
  tls: "The secure connection failed",
  codec_unsupported: "The video format is not supported",
  decode_error: "The video is damaged",
  no_video: "The stream carries no video",
  ended: "The recording has ended",
  permission_denied: "The daemon may not open the device",
  busy: "Another program uses the device",
  io_error: "The device failed",
  stopped: "Stopped",
};

/** A typed reason in words. */
export function inWords(reason) {
  return REASONS[reason] ?? (reason ? reason.replaceAll("_", " ") : "Not connected");
}
