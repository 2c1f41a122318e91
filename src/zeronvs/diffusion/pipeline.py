"""The diffusion model as a diffusers pipeline: one view and cameras in, views out."""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float, Int
from torch import Tensor
from transformers.utils import logging as transformers_logging

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent
from zeronvs._core.random import draw_noise, seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View, resize_image
from zeronvs.diffusion.condition import CameraCondition, Condition, join_conditions
from zeronvs.diffusion.conditioning_kind import Warped
from zeronvs.diffusion.denoiser import ViewDenoiser
from zeronvs.diffusion.images import (
    OUTPUT_TYPES,
    ImageInput,
    Seeds,
    check_latents,
    draw_seeds,
    input_views,
    to_output_type,
)
from zeronvs.diffusion.loading import check_pipeline_folder, pipeline_folder
from zeronvs.diffusion.model_card import write_model_card
from zeronvs.diffusion.sampling import OnStep, Start, ddim_sample, ddim_timesteps
from zeronvs.protocols import GeometryEstimator


class ZeroNVSPipeline(ViewDenoiser):
    """New views of a scene from one view of it.

    `encode` encodes the input view, `prepare` conditions on target cameras, `sample` draws views;
    calling the pipeline does all three. Score distillation calls `predict_noise`, training
    `predict`.
    """

    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "ZeroNVSPipeline":
        """Load a pipeline.

        Args:
            pretrained_model_name_or_path: "builtin" (the model that ships with this package), a
                folder, or a hub id.
            **kwargs: As in diffusers: `dtype` (default float32, whatever the files hold),
                `variant`, components to use instead of the stored ones, hub settings, ...

        Raises:
            InputError: There is no usable pipeline there.
        """
        folder = pipeline_folder(pretrained_model_name_or_path, kwargs)
        check_pipeline_folder(folder, set(kwargs))
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or torch.float32
        kwargs.setdefault("use_safetensors", True)
        try:
            with _without_progress_bars():
                return super().from_pretrained(str(folder), dtype=dtype, **kwargs)
        except InputError:
            raise
        except (
            *(OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError),
            *(AttributeError, AssertionError, MemoryError),
        ) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{folder} cannot be loaded as a pipeline: {reason}") from error

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | Path, *, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the components as diffusers does (safetensors), with a model card, README.md.

        A README.md that is there already is kept. `pipeline.py` lets stock diffusers load the
        folder. No progress bars are drawn.

        Raises:
            InputError: `push_to_hub` is given: publishing is a call of its own, `push_to_hub`.
        """
        if push_to_hub:
            raise InputError("save the pipeline, then call push_to_hub", argument="push_to_hub")
        with _without_progress_bars():
            super().save_pretrained(save_directory, **kwargs)
        write_model_card(self, Path(save_directory))

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool = True,
        token: str | None = None,
        create_pr: bool = False,
        variant: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, with our model card, and return the address.

        In diffusers, a new repository is public and its card a blank form; here it is private.

        Args:
            repo_id: "name" or "owner/name".
            commit_message: Of the upload.
            private: Whether a new repository is private; one that exists stays as it is.
            token: Of the hub; None: the one that was logged in with.
            create_pr: Open a pull request instead.
            variant: Of the names of the weights, such as "fp16".
        """
        from huggingface_hub import create_repo

        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant)
            return str(
                self._upload_folder(
                    folder, repo_id, token=token, commit_message=commit_message, create_pr=create_pr
                )
            )

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        cameras: Camera,
        seeds: list[int],
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        batch_size: int = 8,
        warped: Warped | None = None,
        chosen: Int[Tensor, "s n"] | None = None,
        start: Start | None = None,
        latents: Float[Tensor, "n z h w"] | None = None,
        decode: bool = True,
        callback: Progress | None = None,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "n c H W"]:
        """Draw one view per camera; a sample depends on its seed, not on its batch.

        Args:
            condition: Encoding of 1 or n input views; with `chosen`, of any number.
            cameras: n target cameras.
            seeds: n seeds, one per sample; initial and later noise are drawn from it on the CPU.
            num_inference_steps: DDIM steps; None, here and below: the model's defaults.
            guidance_scale: Classifier-free guidance weight; 1 = none.
            eta: DDIM's eta in [0, 1].
            batch_size: Samples at a time, which bounds the memory.
            warped: For the warp kind, the known content of the n target views (see `prepare`).
            chosen: Which input view conditions each sample at each step, at least as many rows as
                steps: stochastic conditioning (3DiM, arXiv:2210.04628).
            start: n latents to start from, and what of them is known; None: pure noise.
            latents: Initial noise, instead of noise drawn from the seeds.
            decode: Whether to return images; otherwise the scaled latents are returned.
            callback: Called after each step of each batch.
            on_step: May change the latents after each step.
        """
        defaults = self.conditioning.sampling_defaults
        steps = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        guidance = defaults.guidance_scale if guidance_scale is None else guidance_scale
        count = len(cameras)
        if len(seeds) != count or batch_size < 1:
            raise InputError(
                f"{len(seeds)} seeds for {count} cameras in batches of {batch_size}; "
                "give one seed per camera and batches of at least 1."
            )
        level = 1.0 if start is None else start.noise_level
        taken = len(ddim_timesteps(self.scheduler, steps, level))
        total = -(-count // batch_size) * taken
        images = []
        for first in range(0, count, batch_size):
            rows = slice(first, first + batch_size)
            own = condition if len(condition) == 1 or chosen is not None else condition[rows]
            known = None if warped is None else (warped[0][rows], warped[1][rows])
            each_step = None if chosen is None else chosen[:, rows]
            conditions = self._conditions(own, cameras[rows], known, each_step)
            generators = [seeded_generator(seed) for seed in seeds[rows]]
            # Drawn even if replaced by `latents`: the noise of later steps comes from the same
            # generators and must not depend on it.
            noise = draw_noise(generators, self._latent_shape)
            noise = noise if latents is None else latents[rows]

            def after_step(
                index: int, timestep: int, latent: Tensor, done: int = len(images)
            ) -> Tensor:
                if callback is not None:
                    step = done * taken + index + 1
                    callback(ProgressEvent("sample views", step, total))
                return latent if on_step is None else on_step(index, timestep, latent)

            latent = ddim_sample(
                lambda x, t, conditions=conditions: self._predict(x, t, next(conditions), guidance),
                self.scheduler,
                noise.to(condition.latent),
                generators,
                num_inference_steps=steps,
                eta=defaults.eta if eta is None else eta,
                start=None if start is None else start[rows],
                on_step=after_step,
            )
            if decode:
                image = self.to_image(latent)
                latent = self.conditioning.keep_known(image, next(conditions))
            images.append(latent)
        return torch.cat(images)

    def _conditions(
        self,
        condition: Condition,
        cameras: Camera,
        warped: Warped | None,
        chosen: Int[Tensor, "s n"] | None,
    ) -> Iterator[CameraCondition]:
        """Yield the conditioning of each step, and once more that of the last."""
        if chosen is None:
            yield from itertools.repeat(self.prepare(condition, cameras, warped))
            return
        for row in itertools.chain(chosen, chosen[-1:]):
            yield self.prepare(condition[row], cameras, warped)

    @property
    def _latent_shape(self) -> tuple[int, int, int]:
        size = int(self.unet.config["sample_size"])
        return int(self.unet.config["out_channels"]), size, size

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | View | Sequence[ImageInput] | Sequence[View],
        cameras: Camera,
        *,
        input_camera: Camera | None = None,
        geometry_estimator: GeometryEstimator | None = None,
        scene_scale: float = 0.7,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        num_images_per_camera: int = 1,
        generator: Seeds = None,
        latents: Float[Tensor, "n c h w"] | None = None,
        batch_size: int = 8,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make views of the scene in `image` from `cameras`.

        Args:
            image: The input view, or several; each is cut to its central square.
            cameras: n target cameras (or one), in the world of the input camera, of square images;
                the views get their size.
            input_camera: Camera of `image`, one for all or one each; by default it is at distance 1
                from the world's origin and looks at it horizontally, with the field of view of the
                first target camera. A `View` has its own.
            geometry_estimator: Estimates the depth of `image` where the model needs it
                (`pipe.conditioning.needs_depth`) and `image` is no View with depth.
            scene_scale: Scene units per model unit; 0.7 to 1.0 suits most photographs (paper, A.1).
            num_inference_steps: DDIM steps; None, here and below: the model's defaults.
            guidance_scale: Classifier-free guidance weight; 1 = none.
            eta: DDIM's eta in [0, 1].
            num_images_per_camera: Samples per camera.
            generator: A seed (sample k uses seed + k), one seed or generator per sample, or a
                generator that seeds are drawn from; None draws fresh ones.
            latents: Initial noise, one per sample, instead of noise drawn from the generator.
            batch_size: Samples at a time, which bounds the memory.
            output_type: "pil", "np", "pt", or "latent": the scaled latents before the autoencoder.
            return_dict: Return an `ImagePipelineOutput`, else a tuple.
            callback_on_step_end: As in diffusers: (pipe, step, timestep, {"latents": ...}) -> dict;
                latents that it returns are used. Steps are counted anew in each batch.
            callback_on_step_end_tensor_inputs: As in diffusers; there are only "latents".

        Returns:
            Images camera by camera: sample j of camera i is number i * num_images_per_camera + j.
            With several input views, the images of the first view come first.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError(f'output_type is "{output_type}"; choose one of {OUTPUT_TYPES}.')
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise InputError(
                f"callback_on_step_end_tensor_inputs names {sorted(unknown)[0]!r}; there are only "
                f"{self._callback_tensor_inputs}."
            )
        cameras = cameras.batched()
        height_px, width_px = cameras.image_size_px
        if height_px != width_px:
            raise InputError(
                f"the cameras have images of {height_px}x{width_px} pixels; the model makes square "
                "ones. Give cameras with as many rows as columns."
            )
        views = input_views(image, input_camera, cameras)
        each = torch.arange(len(cameras)).repeat_interleave(num_images_per_camera)
        repeated = cameras[each.repeat(len(views))]
        latents = check_latents(latents, (len(repeated), *self._latent_shape))
        seeds = draw_seeds(generator, len(repeated))
        condition = join_conditions(
            [self.encode(view, scene_scale, geometry_estimator) for view in views]
        )
        if len(views) > 1:
            condition = condition[torch.arange(len(views)).repeat_interleave(len(each))]

        def on_step(index: int, timestep: int, latent: Tensor) -> Tensor:
            if callback_on_step_end is None:
                return latent
            changed = callback_on_step_end(self, index, timestep, {"latents": latent}) or {}
            return changed.get("latents", latent)

        images = self.sample(
            condition,
            repeated,
            seeds,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            batch_size=batch_size,
            latents=latents,
            decode=output_type != "latent",
            on_step=on_step,
        )
        if output_type == "latent":
            output: Any = images
        else:
            output = to_output_type(resize_image(images, (height_px, width_px)), output_type)
        self.maybe_free_model_hooks()  # of enable_model_cpu_offload
        return ImagePipelineOutput(images=output) if return_dict else (output,)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep diffusers and transformers from drawing progress bars; their warnings still show."""
    switches = [
        (diffusers_logging, diffusers_logging.is_progress_bar_enabled()),
        (transformers_logging, transformers_logging.is_progress_bar_enabled()),
    ]
    for switch, _ in switches:
        switch.disable_progress_bar()
    try:
        yield
    finally:
        for switch, was_enabled in switches:
            if was_enabled:
                switch.enable_progress_bar()
