"""Picking a device; machines with several GPUs are described, for the one at hand may have none."""

import pytest
import torch

from mistudio.errors import SubjectError
from mistudio.subject import device_name, devices, pick_device, resolve_dtype

GB = 10**9


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [
        devices.Gpu(0, "Large and busy", total_bytes=80 * GB, free_bytes=10 * GB, compute_capability="9.0"),
        devices.Gpu(2, "Small and idle", total_bytes=24 * GB, free_bytes=23 * GB, compute_capability="7.5"),
    ]
    monkeypatch.setattr(devices, "list_gpus", lambda: gpus)


@pytest.mark.usefixtures("two_gpus")
def test_auto_is_the_gpu_with_the_most_free_memory_not_the_largest() -> None:
    assert pick_device("auto") == torch.device("cuda", 2)
    assert pick_device("cuda") == torch.device("cuda", 2)


@pytest.mark.usefixtures("two_gpus")
def test_auto_is_the_cpu_where_no_gpu_has_the_memory_that_is_needed() -> None:
    assert pick_device("auto", needed_bytes=20 * GB) == torch.device("cuda", 2)
    assert pick_device("auto", needed_bytes=30 * GB) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_can_be_named_and_one_that_is_not_there_is_refused_with_those_that_are() -> None:
    assert pick_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(SubjectError, match=r"cuda:0 \(Large and busy\), cuda:2 \(Small and idle\)"):
        pick_device("cuda:1")


def test_a_gpu_whose_query_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_index: int) -> tuple[int, int]:
        message = "CUDA driver error"
        raise RuntimeError(message)

    monkeypatch.setattr(devices, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert devices.list_gpus() == []
    assert pick_device("auto") == torch.device("cpu")


def test_without_a_driver_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_gpu_driver", lambda: False)
    monkeypatch.delattr(torch.cuda, "device_count")
    assert device_name("auto") == "cpu"
    assert resolve_dtype("auto", device_name("auto")) == "float32"
    with pytest.raises(SubjectError, match="this machine has cpu, and no GPU"):
        device_name("cuda")


def test_auto_is_float32_on_a_cpu_and_a_given_format_stays() -> None:
    assert resolve_dtype("auto", torch.device("cpu")) == "float32"
    assert resolve_dtype("float16", torch.device("cpu")) == "float16"


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16")])
def test_auto_on_a_gpu_is_bfloat16_where_the_chip_has_it(
    capability: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert resolve_dtype("auto", torch.device("cuda", 0)) == dtype
