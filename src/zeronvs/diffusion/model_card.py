"""The model card that is saved with a pipeline: README.md, in the form of model hubs."""

from pathlib import Path
from typing import TYPE_CHECKING

from zeronvs._core.files import write_bytes
from zeronvs._core.version import __version__

if TYPE_CHECKING:
    from zeronvs.diffusion.denoiser import ViewDenoiser

CARD = """\
---
library_name: diffusers
pipeline_tag: image-to-3d
tags:
- novel-view-synthesis
- zeronvs
---

# A view-conditioned diffusion model

New views of a scene from one view of it, after ZeroNVS (arXiv 2310.17994). Saved by zeronvs
{version}.

| | |
|---|---|
| images | {size} x {size} pixels |
| camera representation | {representation} |
| conditioning | {conditioning} |
| depth of the input view | {depth} |
| sampling defaults | {steps} DDIM steps, guidance {guidance:g}, eta {eta:g} |

{parts}

```python
from zeronvs import ZeroNVSPipeline, make_trajectory, prepare_photo

pipe = ZeroNVSPipeline.from_pretrained("this folder")
photo = prepare_photo("photo.jpg")
camera = photo.view.camera.center_square().resized(pipe.image_size_px, pipe.image_size_px)
cameras = make_trajectory("orbit", camera, 8)
views = pipe(photo.view, cameras, scene_scale=photo.estimates.scene_scale.value).images
```

Where zeronvs is installed, stock diffusers loads it too:
`DiffusionPipeline.from_pretrained("this folder")` after `import zeronvs`, and without it with
`custom_pipeline="this folder", trust_remote_code=True`.

## Training data, licence, limits

{origin}

What the input view does not show is invented.
"""
STOCK_LOADER = b"""\
# Lets stock diffusers load this folder, where zeronvs is installed:
# DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
from zeronvs import ZeroNVSPipeline

__all__ = ["ZeroNVSPipeline"]
"""
UNKNOWN_ORIGIN = "Not stated here: fill in how these weights came about before you publish them."


def write_model_card(pipe: "ViewDenoiser", folder: Path, origin: str = UNKNOWN_ORIGIN) -> None:
    """Write README.md for a saved pipeline, and pipeline.py, by which stock diffusers loads it.

    A README.md that is there already is kept.

    Args:
        origin: Where the weights come from and what their licence is, Markdown.
    """
    write_bytes(folder / "pipeline.py", STOCK_LOADER)
    path = folder / "README.md"
    if path.exists():
        return
    defaults = pipe.conditioning.sampling_defaults
    lines = ["| part | class | parameters |", "|---|---|---|"]
    for name, part in pipe.components.items():
        count = sum(p.numel() for p in part.parameters()) if hasattr(part, "parameters") else 0
        lines.append(f"| `{name}` | `{type(part).__name__}` | {count:,} |")
    card = CARD.format(
        version=__version__,
        size=pipe.image_size_px,
        representation=pipe.cc_projection.config["representation"],
        conditioning=pipe.conditioning.name,
        depth="needed" if pipe.conditioning.needs_depth else "not needed",
        steps=defaults.num_inference_steps,
        guidance=defaults.guidance_scale,
        eta=defaults.eta,
        parts="\n".join(lines),
        origin=origin,
    )
    write_bytes(path, card.encode())
