// One npm peer over one clip after another: node peer.cjs NAME FOLDER SECONDS CLIP…
// Prints one JSON line a clip: frames a second, faces and CPU time a frame. Frames come from ffmpeg as RGB.
'use strict';
const { spawn, execFileSync } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const [name, folder, seconds, ...clips] = process.argv.slice(2);
const modules = path.join(folder, 'node_modules');
const need = (what) => require(path.join(modules, what));
const WARM = 3; // the first calls compile and allocate

function sizeOf(clip) {
  const fields = ['-v', 'error', '-select_streams', 'v:0', '-show_entries', 'stream=width,height'];
  const text = execFileSync('ffprobe', [...fields, '-of', 'csv=p=0', clip]).toString();
  return text.trim().split(',').map(Number);
}

// Milliseconds of CPU that ffmpeg has taken: fields 14 and 15 of proc(5), in hundredths of a second.
function spentBy(child) {
  const fields = fs.readFileSync(`/proc/${child.pid}/stat`).toString().split(') ')[1].split(' ');
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

function open(clip) {
  const options = ['-v', 'error', '-stream_loop', '-1', '-i', clip, '-an'];
  const child = spawn('ffmpeg', [...options, '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return child;
}

async function* framesOf(child, [width, height]) {
  const bytes = width * height * 3;
  try {
    let held = [];
    let length = 0;
    for await (const chunk of child.stdout) {
      held.push(chunk);
      length += chunk.length;
      while (length >= bytes) {
        const all = Buffer.concat(held);
        yield all.subarray(0, bytes);
        held = [all.subarray(bytes)];
        length -= bytes;
      }
    }
  } finally {
    child.kill('SIGKILL');
  }
}

async function faceApi(detector) {
  const tf = need('@tensorflow/tfjs');
  const wasm = need('@tensorflow/tfjs-backend-wasm');
  wasm.setWasmPaths(path.join(modules, '@tensorflow/tfjs-backend-wasm/dist') + path.sep);
  await tf.setBackend('wasm');
  await tf.ready();
  const faceapi = need('@vladmandic/face-api/dist/face-api.node-wasm.js');
  const models = path.join(modules, '@vladmandic/face-api/model');
  const tiny = detector === 'tiny';
  await (tiny ? faceapi.nets.tinyFaceDetector : faceapi.nets.ssdMobilenetv1).loadFromDisk(models);
  await faceapi.nets.faceExpressionNet.loadFromDisk(models);
  const options = tiny ? new faceapi.TinyFaceDetectorOptions() : new faceapi.SsdMobilenetv1Options();
  return async (frame, [width, height]) => {
    const tensor = tf.tensor3d(frame, [height, width, 3], 'int32');
    const found = await faceapi.detectAllFaces(tensor, options).withFaceExpressions();
    tf.dispose(tensor);
    return found.length;
  };
}

// Its build for WASM loads files over HTTP alone, so they are served from the package.
function serve(directory) {
  const server = http.createServer((request, response) => {
    const file = path.join(directory, path.basename(request.url));
    fs.readFile(file, (error, content) => response.writeHead(error ? 404 : 200).end(content));
  });
  server.unref();
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}/`));
  });
}

async function human() {
  const { Human } = need('@vladmandic/human/dist/human.node-wasm.js');
  const off = { enabled: false };
  const reader = new Human({
    backend: 'wasm',
    wasmPath: await serve(path.join(modules, '@tensorflow/tfjs-backend-wasm/dist')),
    modelBasePath: await serve(path.join(modules, '@vladmandic/human/models')),
    wasmPlatformFetch: true,
    cacheSensitivity: 0, // every frame is read; by default a frame like the last one is not
    debug: false,
    filter: off,
    body: off,
    hand: off,
    object: off,
    gesture: off,
    segmentation: off,
    face: {
      enabled: true,
      detector: { enabled: true, maxDetected: 20, skipFrames: 0, skipTime: 0 },
      mesh: { enabled: true },
      emotion: { enabled: true, skipFrames: 0, skipTime: 0 },
      iris: off,
      description: off,
      antispoof: off,
      liveness: off,
    },
  });
  await reader.load();
  return async (frame, [width, height]) => {
    const tensor = reader.tf.tensor(frame, [1, height, width, 3], 'float32');
    const found = await reader.detect(tensor);
    reader.tf.dispose(tensor);
    if (found.error) throw new Error(found.error);
    return found.face.filter((face) => face.emotion && face.emotion.length).length;
  };
}

const READERS = {
  'face-api': () => faceApi('ssd'),
  'face-api-tiny': () => faceApi('tiny'),
  human,
};

async function main() {
  const read = await READERS[name]();
  for (const clip of clips) {
    const size = sizeOf(clip);
    let calls = 0;
    let faces = 0;
    let start = 0;
    let cpu = 0;
    const child = open(clip);
    const spent = () => spentBy(child) + Object.values(process.cpuUsage()).reduce((a, b) => a + b) / 1e3;
    let took = 1;
    for await (const frame of framesOf(child, size)) {
      if (calls === WARM) {
        start = performance.now();
        cpu = spent();
      }
      const found = await read(frame, size);
      if (calls >= WARM) faces += found;
      calls += 1;
      if (calls > WARM && performance.now() - start >= seconds * 1e3) {
        took = (performance.now() - start) / 1e3;
        cpu = spent() - cpu;
        break;
      }
    }
    const frames = calls - WARM;
    const line = { clip, fps: frames / took, faces: faces / frames, cpu_ms: cpu / frames };
    console.log(JSON.stringify(line));
  }
}

main().catch((error) => {
  console.log(JSON.stringify({ missing: String(error.message || error).split('\n')[0] }));
  process.exit(0);
});
