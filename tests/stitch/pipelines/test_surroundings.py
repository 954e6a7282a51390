"""What else is done to pipelines: adapters, compilation, offloading, interruption, callbacks."""

import logging

import pytest
import torch
from peft import LoraConfig
from torch._dynamo.testing import CompileCounter

from models.errors import InputError
from stitch.pipelines import stitch_pipeline
from tests.stitch.pipelines import tiny

HALVES = {"small": 0.5, "large": 0.5}


def denoisers():
    return tiny.unet(8), tiny.unet(16)


@pytest.fixture(scope="module")
def expected():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        return tiny.latents(pipe)


def group_offload(pipe, **settings):
    cpu = torch.device("cpu")
    pipe.unet.enable_group_offload(
        onload_device=cpu, offload_device=cpu, offload_type="leaf_level", **settings
    )


OFFLOADS = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "group": group_offload,
}


@pytest.mark.parametrize("first", ["offload", "stitch"])
@pytest.mark.parametrize("how", OFFLOADS)
def test_offloading_before_or_after_the_stitch_changes_nothing(how, first, expected):
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    untouched = tiny.latents(pipe)
    if first == "offload":
        OFFLOADS[how](pipe)
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        if first == "stitch":
            OFFLOADS[how](pipe)
        for _ in range(3):
            assert torch.equal(tiny.latents(pipe), expected)
    assert torch.equal(tiny.latents(pipe), untouched)
    pipe.remove_all_hooks()
    assert torch.equal(tiny.latents(pipe), untouched)


def test_members_are_compiled_by_themselves_once(expected):
    small, large = denoisers()
    torch.compiler.reset()
    graphs = CompileCounter()
    for denoiser in (small, large):
        denoiser.forward = torch.compile(denoiser.forward, backend=graphs, fullgraph=True)
    pipe = tiny.sd(large, "ddim")
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        for _ in range(2):
            assert torch.equal(tiny.latents(pipe), expected)
            assert graphs.frame_count == 2
    for name in HALVES:
        with pytest.raises(
            InputError, match=f"^deep=2: {name}: it is compiled, and nothing can be"
        ):
            stitch_pipeline(pipe, {"small": small}, HALVES, deep={name: 2})


def compile_before(pipe):
    pipe.unet.compile(backend="eager")


def compile_module(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager")


@pytest.mark.parametrize("compiling", [compile_before, compile_module])
def test_a_denoiser_that_is_compiled_as_a_whole_is_refused(compiling):
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    compiling(pipe)
    with pytest.raises(InputError, match="^the pipeline's denoiser is compiled as a whole"):
        stitch_pipeline(pipe, {"small": small}, HALVES)


def test_compiling_the_stitch_itself_is_refused():
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    stitch_pipeline(pipe, {"small": small}, HALVES)
    compile_before(pipe)
    with pytest.raises(InputError, match="^the pipeline's denoiser is compiled as a whole"):
        tiny.latents(pipe)


def test_an_adapter_reaches_the_large_denoiser_and_the_others_are_named_once(expected, caplog):
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            settings = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"])
            large.add_adapter(settings, adapter_name="style")
        with caplog.at_level(logging.WARNING, logger="stitch"):
            whole = tiny.latents(pipe)
            tiny.latents(pipe)
        assert [record.getMessage().split(":")[0] for record in caplog.records] == [
            "LoRA is in large only"
        ]
        assert not torch.equal(whole, expected)
        pipe.set_adapters("style", 0.5)
        half = tiny.latents(pipe)
        assert not torch.equal(half, whole) and not torch.equal(half, expected)
        pipe.set_adapters("style", 1.0)
        assert torch.equal(tiny.latents(pipe, cross_attention_kwargs={"scale": 0.5}), half)
        pipe.fuse_lora()
        torch.testing.assert_close(tiny.latents(pipe), whole, rtol=1e-3, atol=1e-3)
        pipe.unfuse_lora()
        pipe.disable_lora()
        torch.testing.assert_close(tiny.latents(pipe), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("deep", [None, 2])
def test_a_call_after_an_interrupted_one_begins_anew(deep):
    small, large = denoisers()
    pipe = tiny.sd(large, "pndm")

    def interrupt(pipe, step, t, arguments):
        pipe._interrupt = step == 2
        return arguments

    def fail(pipe, step, t, arguments):
        raise KeyboardInterrupt

    with stitch_pipeline(pipe, {"small": small}, HALVES, deep=deep) as stitched:
        whole = tiny.latents(pipe)
        stopped = tiny.latents(pipe, callback_on_step_end=interrupt)
        assert not torch.equal(stopped, whole)
        assert torch.equal(tiny.latents(pipe), whole)
        with pytest.raises(KeyboardInterrupt):
            tiny.latents(pipe, callback_on_step_end=fail)
        assert torch.equal(tiny.latents(pipe), whole)
        assert len(stitched.allocation) == 7


def test_calls_may_change_scheduler_steps_and_batch():
    small, large = denoisers()
    pipe = tiny.sd(large, "pndm")
    prompts = ["a red shoe", "a bag"]
    with stitch_pipeline(pipe, {"small": small}, HALVES, deep=2) as stitched:
        for name, steps, entries in (("pndm", 6, 7), ("unipc", 5, 5), ("heun", 4, 7)):
            pipe.scheduler = tiny.SCHEDULERS[name]()
            one = tiny.latents(pipe, steps)
            assert len(stitched.allocation) == entries
            two = tiny.latents(pipe, steps, prompt=prompts)
            assert two.shape[0] == 2
            assert torch.equal(tiny.latents(pipe, steps), one)


def test_the_callback_may_end_guidance(expected):
    """Half the batch from there on; the deep cache does not mix the two."""
    small, large = denoisers()
    pipe = tiny.sd(large, "ddim")

    def end(pipe, step, t, arguments):
        if step == 3:
            pipe._guidance_scale = 0.0
            arguments["prompt_embeds"] = arguments["prompt_embeds"].chunk(2)[-1]
        return arguments

    ending = dict(
        callback_on_step_end=end, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"]
    )
    with stitch_pipeline(pipe, {"small": small}, HALVES):
        assert not torch.equal(tiny.latents(pipe, **ending), expected)
    with stitch_pipeline(pipe, {"small": small}, HALVES, deep=3):
        cut = tiny.latents(pipe, **ending)
        assert torch.equal(tiny.latents(pipe, **ending), cut)
