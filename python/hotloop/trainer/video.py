"""Frames of an environment, and files of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hotloop.trainer.files import write_atomically

Frame = npt.NDArray[np.uint8]


def render(environment: Any) -> Frame:
    """What the first environment of a `GymnasiumEnvironment` looks like now, uint8 ``[height, width, 3]``.

    Raises:
        ValueError: it renders no rgb_array; the message says why.
    """
    members = getattr(getattr(environment, "vector_env", None), "envs", None)
    if not members:
        raise ValueError(
            f"video: {environment!r} keeps no environment that could be rendered: "
            "environment.vectorization='sync' would work"
        )
    try:
        frame = members[0].render()
    # What a renderer raises when the package that it draws with is missing is its own affair.
    except Exception as error:
        raise ValueError(f"video: {members[0]} cannot be rendered: {error}") from error
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3:
        modes = members[0].metadata.get("render_modes")
        raise ValueError(
            f"video: {members[0]} must render an rgb_array [height, width, 3], got "
            f"{type(frame).__name__}; its render modes are {modes}"
        )
    return frame.astype(np.uint8)


def frames_per_second(environment: Any) -> float:
    """What the environment's metadata say, else 30."""
    return float(environment.vector_env.envs[0].metadata.get("render_fps") or 30)


def check_video_path(path: Path) -> None:
    """Raises ValueError for a suffix that is not known, ImportError where what writes it is not installed."""
    if path.suffix == ".gif":
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise ImportError(f"a GIF needs pillow ({error}): pip install 'hotloop[train]'") from error
    elif path.suffix == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"an MP4 needs imageio with ffmpeg ({error}): pip install 'hotloop[video]', or write a .gif"
            ) from error
    else:
        raise ValueError(f"video: the file must end in .gif or .mp4, got {str(path)!r}")


def write_video(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Writes frames ``[height, width, 3]`` as a GIF (by Pillow) or an MP4 (by imageio), as the suffix says.

    Raises:
        ValueError, ImportError: as `check_video_path`; no frame is given.
    """
    check_video_path(path)
    if not frames:
        raise ValueError("write_video: frames must hold at least one, got none")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        _write_mp4(path, frames, fps)
    else:
        _write_gif(path, frames, fps)


def _write_gif(path: Path, frames: Sequence[Frame], fps: float) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    # GIF counts in hundredths of a second, and viewers slow down what lasts less than two.
    duration = max(20, round(100 / fps) * 10)
    with write_atomically(path) as temporary:
        images[0].save(
            temporary, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0
        )


def _write_mp4(path: Path, frames: Sequence[Frame], fps: float) -> None:
    import imageio.v2

    # The encoder goes by the suffix, so the temporary name of write_atomically will not do.
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    try:
        with imageio.v2.get_writer(temporary, fps=fps, macro_block_size=2) as writer:
            for frame in frames:
                writer.append_data(frame)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
