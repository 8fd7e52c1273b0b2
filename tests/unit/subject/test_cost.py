"""What a pass costs, against the multiplications that PyTorch counts itself."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mistudio.subject import forward_logits, resolve_source, subject_from_model
from mistudio.subject.cost import (
    duration,
    encoding_flop,
    measured_speed,
    pass_flop,
    product_speed,
    stated,
    subject_shape,
    subject_speed,
    training_flop,
)
from mistudio.subject.footprint import measure_shape
from tests.support.families import LAYERS, build_model, byte_level_tokenizer


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi", "bert"])
def test_a_pass_takes_what_pytorch_counts(family: str) -> None:
    subject = subject_from_model(build_model(family), byte_level_tokenizer())
    ids_BT = torch.ones(2, 8, dtype=torch.int64)
    with FlopCounterMode(display=False) as counted:
        forward_logits(subject, ids_BT)
    assert pass_flop(subject_shape(subject), 16, 8) == pytest.approx(counted.get_total_flops(), rel=0.12)


def test_blocks_head_and_gradients_are_counted_as_they_are_run() -> None:
    shape = subject_shape(subject_from_model(build_model("llama"), byte_level_tokenizer()))
    one = pass_flop(shape, 100, 16, blocks=1, head=False)
    assert pass_flop(shape, 100, 16) == LAYERS * one + 2 * 100 * shape.d_model * shape.vocab_size
    assert pass_flop(shape, 100, 16, blocks=1, head=False, backward=True) == 2 * one
    assert pass_flop(shape, 200, 16, blocks=1, head=False) == 2 * one
    assert pass_flop(shape, 100, 64, blocks=1, head=False) - one == 4 * 48 * 100 * shape.d_model


def test_an_autoencoder_takes_one_product_to_encode_and_up_to_three_to_learn() -> None:
    assert encoding_flop(10, 3, 7) == 2 * 10 * 3 * 7
    assert training_flop(10, 3, 7, few_active=False) == 3 * encoding_flop(10, 3, 7)
    assert training_flop(10, 3, 7, few_active=True) == 1.5 * encoding_flop(10, 3, 7)


def test_speeds_are_measured_once() -> None:
    subject = subject_from_model(build_model("llama"), byte_level_tokenizer())
    shape, speed = subject_shape(subject), subject_speed(subject)
    assert speed > 0
    assert subject_speed(subject) == speed
    assert measured_speed(shape) == measured_speed(shape) > 0
    assert product_speed(64, 32, 128) == product_speed(64, 32, 128) > 0


def test_what_it_costs_is_said_as_people_say_it() -> None:
    assert stated(12.34e12, 62e9) == "about 3 min 20 s (12.3 TFLOP at 62 GFLOP/s)"
    assert [duration(s) for s in (0.02, 8.4, 59.4, 59.6, 200, 3569, 3571, 3600, 15_120)] == [
        "1 s",
        "8 s",
        "59 s",
        "1 min",
        "3 min 20 s",
        "59 min 30 s",
        "1 h",
        "1 h",
        "4 h 12 min",
    ]


def test_the_sizes_of_a_loaded_model_are_those_of_its_files(tmp_path: Path) -> None:
    model = build_model("gemma2")
    model.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    shape = subject_shape(subject_from_model(model, byte_level_tokenizer()))
    assert shape.num_parameters == model.num_parameters()
    assert shape == measure_shape(resolve_source(str(tmp_path))).model_copy(update={"saved_dtype": shape.saved_dtype})
