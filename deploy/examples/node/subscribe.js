// Prints the events of a running daemon and says when some were missed.
//
//   npm install
//   node subscribe.js [--connect tcp://127.0.0.1:5556] [--topic emotion.changed/] [--seconds 10]
//
// A message has two frames: the topic, and a CloudEvents 1.0 object as JSON. `sequence` counts up
// by one for each topic, so a jump is a loss; `epoch` changes when the daemon was started again and
// the counters with it.

import { parseArgs } from "node:util";
import { Subscriber } from "zeromq";

const { values: options } = parseArgs({
  options: {
    connect: { type: "string", default: "tcp://127.0.0.1:5556" },
    topic: { type: "string", multiple: true, default: [""] },
    seconds: { type: "string", default: "0" },
  },
});

const LARGEST_EVENT = 1 << 20; // bytes; an event has under 1 kB
const last = new Map(); // topic → { epoch, sequence } of its newest event
let received = 0;
let missed = 0;

/** Count what was lost of a topic since its event before. */
function countGap(topic, { epoch, sequence }) {
  const before = last.get(topic);
  last.set(topic, { epoch, sequence });
  if (before === undefined) return 0;
  return before.epoch === epoch ? sequence - before.sequence - 1 : sequence - 1;
}

/** Describe an event in one line; types that a newer daemon adds are named, not refused. */
function describe({ type, time, data }) {
  const clock = time.slice(11, 23);
  const face = `${data.camera} face ${data.track}`;
  const share = (value) => `${Math.round(100 * value)} %`;
  switch (type) {
    case "face.appeared":
      return `${clock} ${face} appeared at ${data.box.map(Math.round).join(", ")}`;
    case "face.lost":
      return `${clock} ${face} left after ${data.duration_s.toFixed(1)} s, mostly ${data.label}`;
    case "emotion.sample":
      return `${clock} ${face} ${data.label} ${share(data.confidence)}`;
    case "emotion.changed":
      return `${clock} ${face} changed from ${data.previous} to ${data.label}`;
    case "camera.online":
      return `${clock} ${data.camera} online, ${data.width}x${data.height}`;
    case "camera.offline":
      return `${clock} ${data.camera} offline: ${data.reason}`;
    default:
      return `${clock} ${type}`;
  }
}

const socket = new Subscriber({ maxMessageSize: LARGEST_EVENT, heartbeatInterval: 2000 });
socket.subscribe(...options.topic);
socket.connect(options.connect); // again and again in the background, until somebody answers

const stop = () => socket.close();
process.on("SIGINT", stop);
process.on("SIGTERM", stop);
if (Number(options.seconds) > 0) setTimeout(stop, 1000 * Number(options.seconds));

try {
  for await (const [topic, body] of socket) {
    const event = JSON.parse(body.toString());
    const lost = countGap(topic.toString(), event);
    if (lost > 0) {
      missed += lost;
      console.error(`missed ${lost} of ${topic}`);
    }
    received += 1;
    console.log(describe(event));
  }
} catch (error) {
  if (!socket.closed) throw error; // closing ends the loop, in some versions by an error
}
console.error(`${received} events, ${missed} missed`);
process.exit(0);
