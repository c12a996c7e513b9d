// The stream of messages: opens it, cuts it into messages, opens it again when it breaks.

const HEAD_BYTES = 8; // two big-endian lengths of 32 bit: the header's and the picture's
const LIMIT_BYTES = 16 << 20; // no message is nearly as large; more means that the bytes are not ours
const SILENCE_MS = 4000; // the server reports every second
const RETRY_MS = [500, 1000, 2000, 5000];

/** Reads one stream at a time and tells what it says and how it is. */
export class Stream {
  #controller = null;
  #retries = 0;
  #timer = 0;
  #query = "";

  /**
   * @param {(header: object, picture: Uint8Array) => void} onMessage takes each message
   * @param {(state: "waiting"|"open"|"lost"|"closed") => void} onState takes each change
   */
  constructor(onMessage, onState) {
    this.onMessage = onMessage;
    this.onState = onState;
  }

  /** Open with these parameters; an open stream is replaced. */
  open(query) {
    this.#query = query;
    this.#retries = 0;
    this.#start();
  }

  /** End it and stay so. */
  close() {
    clearTimeout(this.#timer);
    this.#controller?.abort();
    this.#controller = null;
    this.onState("closed");
  }

  #start() {
    clearTimeout(this.#timer);
    this.#controller?.abort();
    const controller = new AbortController();
    this.#controller = controller;
    this.#read(controller).catch(() => null).then(() => {
      if (this.#controller !== controller) return; // replaced or closed on purpose
      this.onState("lost");
      const pause = RETRY_MS[Math.min(this.#retries, RETRY_MS.length - 1)];
      this.#retries += 1;
      this.#timer = setTimeout(() => this.#start(), pause);
    });
  }

  async #read(controller) {
    let silence = setTimeout(() => controller.abort(), SILENCE_MS);
    try {
      const answer = await fetch(`/api/live?${this.#query}`, { signal: controller.signal });
      if (answer.status === 401) location.reload(); // the token was changed: shows the login page
      if (!answer.ok) return;
      const reader = answer.body.getReader();
      const cutter = new Cutter();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(() => controller.abort(), SILENCE_MS);
        this.#retries = 0;
        this.onState("open");
        for (const [header, picture] of cutter.feed(value)) this.onMessage(header, picture);
      }
    } finally {
      clearTimeout(silence);
    }
  }
}

/** Cuts bytes as they come into messages. */
class Cutter {
  #parts = [];
  #size = 0;

  /** Take some bytes and return the messages that are complete now. */
  feed(bytes) {
    this.#parts.push(bytes);
    this.#size += bytes.length;
    if (this.#size < this.#wanted()) return [];
    const all = this.#joined();
    const messages = [];
    let at = 0;
    for (;;) {
      const size = messageSize(all, at);
      if (at + size > all.length) break;
      const text = new DataView(all.buffer, all.byteOffset + at).getUint32(0);
      const header = all.subarray(at + HEAD_BYTES, at + HEAD_BYTES + text);
      const picture = all.subarray(at + HEAD_BYTES + text, at + size);
      messages.push([JSON.parse(new TextDecoder().decode(header)), picture]);
      at += size;
    }
    this.#parts = [all.subarray(at)];
    this.#size = all.length - at;
    return messages;
  }

  #wanted() {
    return this.#parts[0].length >= HEAD_BYTES ? messageSize(this.#parts[0], 0) : HEAD_BYTES;
  }

  #joined() {
    if (this.#parts.length === 1) return this.#parts[0];
    const all = new Uint8Array(this.#size);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

/** Size of the message that begins at `at`, or of its head where that is not complete yet. */
function messageSize(bytes, at) {
  if (bytes.length - at < HEAD_BYTES) return HEAD_BYTES;
  const view = new DataView(bytes.buffer, bytes.byteOffset + at);
  const size = HEAD_BYTES + view.getUint32(0) + view.getUint32(4);
  if (size > LIMIT_BYTES) throw new Error("not a message");
  return size;
}
