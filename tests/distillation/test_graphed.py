"""Captured calls: which are captured, and that they read the inputs of each call anew.

A CPU has no CUDA graphs: calls are recorded here, and replayed by running them again on the places.
"""

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from pretended_cuda import PretendedCuda

from zeronvs.distillation.graphed import CapturedCall, GraphedForward


class Recorder:
    """Records calls as a CUDA graph does: same places, same memory of the output."""

    def __init__(self, fails=False):
        self.captured, self.replayed, self.fails = 0, 0, fails

    def __call__(self, forward, inputs):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captured += 1
        places = tuple(value.clone() for value in inputs)
        output = forward(places[0], places[1], encoder_hidden_states=places[2]).sample

        def replay():
            self.replayed += 1
            output.copy_(forward(places[0], places[1], encoder_hidden_states=places[2]).sample)

        return CapturedCall(places, output, replay)


def predict(sample, timestep, encoder_hidden_states, scale=1.0):
    value = sample * timestep[:, None, None, None] + encoder_hidden_states.mean()
    return UNet2DConditionOutput(sample=scale * value)


def inputs(seed, device, batch=2):
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 3, 4, 4, generator=generator).to(device)
    tokens = torch.randn(batch, 1, 5, generator=generator).to(device)
    return sample, torch.full((batch,), seed + 1, device=device), tokens


@pytest.fixture
def cuda():
    with PretendedCuda(), torch.no_grad():
        yield "cuda"


def test_a_captured_call_gives_what_the_call_gives_for_every_input(cuda):
    recorder = Recorder()
    graphed = GraphedForward(predict, recorder)
    kept = []
    for seed in range(3):
        sample, timestep, tokens = inputs(seed, cuda)
        kept.append((graphed(sample, timestep, encoder_hidden_states=tokens).sample, seed))
    for output, seed in kept:  # later calls do not overwrite what earlier ones returned
        sample, timestep, tokens = inputs(seed, cuda)
        assert torch.equal(output, predict(sample, timestep, tokens).sample)
    assert (recorder.captured, recorder.replayed) == (1, 3)


def test_each_shape_is_captured_once_and_only_a_few_are(cuda):
    recorder = Recorder()
    graphed = GraphedForward(predict, recorder)
    for _ in range(2):
        for batch in range(1, 7):
            sample, timestep, tokens = inputs(0, cuda, batch)
            output = graphed(sample, timestep, encoder_hidden_states=tokens).sample
            assert torch.equal(output, predict(sample, timestep, tokens).sample)
    assert (recorder.captured, recorder.replayed) == (4, 8)


def test_what_cannot_be_captured_is_called_as_before_and_tried_once(cuda):
    recorder = Recorder(fails=True)
    graphed = GraphedForward(predict, recorder)
    sample, timestep, tokens = inputs(0, cuda)
    for _ in range(2):
        output = graphed(sample, timestep, encoder_hidden_states=tokens).sample
        assert torch.equal(output, predict(sample, timestep, tokens).sample)
    recorder.fails = False
    graphed(sample, timestep, encoder_hidden_states=tokens)
    assert recorder.captured == 0


def test_other_arguments_gradients_and_a_cpu_are_not_captured(cuda):
    recorder = Recorder()
    graphed = GraphedForward(predict, recorder)
    sample, timestep, tokens = inputs(0, cuda)
    doubled = graphed(sample, timestep, encoder_hidden_states=tokens, scale=2.0).sample
    assert torch.equal(doubled, 2 * predict(sample, timestep, tokens).sample)
    with torch.enable_grad():
        graphed(sample, timestep, encoder_hidden_states=tokens)
    graphed(*inputs(0, "cpu"))
    assert recorder.captured == 0
