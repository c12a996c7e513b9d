"""One Python peer over one clip after another: ``python peer.py NAME SECONDS CLIP…``.

It runs in the peer's own environment, so it imports nothing of this project. Prints one JSON line
a clip: frames a second, faces and CPU time a frame; or why the peer cannot be had. Frames are read
with OpenCV, as the peers' documentations do.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WARM = 3  # the first calls compile and allocate


def fer(*, mtcnn: bool) -> Callable[[Any], int]:
    """``fer``: a Haar cascade or MTCNN, then its quantised network."""
    if mtcnn:
        import torch  # noqa: F401, PLC0415 before tensorflow
    from fer.fer import FER  # type: ignore # noqa: PLC0415, PGH003

    detector = FER(mtcnn=mtcnn)
    return lambda frame: len(detector.detect_emotions(frame))


def facex() -> Callable[[Any], int]:
    """``facex``: a Haar cascade, then its network."""
    import facex as package  # type: ignore # noqa: PLC0415, PGH003

    pool = package.PoolManager(pool_size=1)
    return lambda frame: len(pool.predict(frame))


def deepface() -> Callable[[Any], int]:
    """``deepface``: its default detector and its emotion network."""
    from deepface import DeepFace  # type: ignore # noqa: PLC0415, PGH003

    def read(frame: Any) -> int:
        found = DeepFace.analyze(frame, actions=["emotion"], enforce_detection=False, silent=True)
        return sum(face["face_confidence"] > 0 for face in found)

    return read


def hsemotion() -> Callable[[Any], int]:
    """``hsemotion-onnx``: reads a face; it is asked for its weights here."""
    import urllib.request  # noqa: F401, PLC0415 which it forgets

    from hsemotion_onnx.facial_emotions import (  # type: ignore # noqa: PLC0415, PGH003
        HSEmotionRecognizer,
    )

    HSEmotionRecognizer(model_name="enet_b0_8_best_vgaf")
    raise SystemExit("its weights can be had: measure it")


def paz() -> Callable[[Any], int]:
    """``pypaz``: a Haar cascade, then a mini-Xception."""
    from paz.pipelines import DetectMiniXceptionFER  # type: ignore # noqa: PLC0415, PGH003

    detect = DetectMiniXceptionFER([0.1, 0.1])
    return lambda frame: len(detect(frame[..., ::-1])["boxes2D"])


READERS: dict[str, Callable[[], Callable[[Any], int]]] = {
    "fer": lambda: fer(mtcnn=False),
    "fer-mtcnn": lambda: fer(mtcnn=True),
    "facex": facex,
    "deepface": deepface,
    "hsemotion-onnx": hsemotion,
    "pypaz": paz,
}


def frames_of(clip: str) -> Iterator[Any]:
    """Yield the pictures of a clip again and again."""
    import cv2  # noqa: PLC0415

    while True:
        capture = cv2.VideoCapture(clip)
        while True:
            there, frame = capture.read()
            if not there:
                break
            yield frame
        capture.release()


def main() -> None:
    """Measure the peer that is named."""
    name, seconds, *clips = sys.argv[1:]
    try:
        read = READERS[name]()
        for clip in clips:
            frames = frames_of(clip)
            for _ in range(_WARM):
                read(next(frames))
            calls = faces = 0
            start_s, cpu_s = time.perf_counter(), time.process_time()
            while (spent_s := time.perf_counter() - start_s) < float(seconds):
                faces += read(next(frames))
                calls += 1
            cpu_ms = 1e3 * (time.process_time() - cpu_s) / calls  # of all threads
            line = {"clip": clip, "fps": calls / spent_s, "faces": faces / calls, "cpu_ms": cpu_ms}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    except (Exception, SystemExit) as error:  # noqa: BLE001 whatever a peer raises is its reason
        reason = " ".join(str(error).split())[:300]
        sys.stdout.write(json.dumps({"missing": f"{type(error).__name__}: {reason}"}) + "\n")


if __name__ == "__main__":
    main()
