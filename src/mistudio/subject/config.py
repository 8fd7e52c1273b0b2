"""How a language model is loaded for study: number format, device, quantisation, trust."""

import re
from typing import Literal

from pydantic import Field, field_validator

from mistudio.plain_text import shortened
from mistudio.settings import COMMAND, DASHBOARD, Settings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "nf4"]

_DEVICE = re.compile(r"^(auto|cpu|cuda(:\d+)?)$")


class SubjectConfig(Settings):
    """How to load a subject; what depends on the machine is checked when it is loaded."""

    dtype: Dtype = Field(
        default="auto",
        description="number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, "
        "bfloat16 or float16",
        json_schema_extra=DASHBOARD,
    )
    device: str = Field(
        default="auto",
        description="where to compute: auto (the GPU with the most free memory, else CPU), cpu, cuda or cuda:N",
        json_schema_extra=COMMAND,
    )
    device_map: Literal["none", "auto"] = Field(
        default="none",
        description="auto spreads the layers over all GPUs; those that are left stay in the CPU's memory, and then on "
        "disk, and are brought in one at a time",
    )
    max_memory_gb: float | None = Field(
        default=None, gt=0, description="most weights on the device with device_map auto, in GB; None: what is free"
    )
    offload_folder: str | None = Field(
        default=None,
        description="where device_map auto keeps layers on disk that cannot be read from the model's files",
    )
    quantization: Quantization = Field(
        default="none",
        description="quantise the weights: none, int8 or nf4 (by bitsandbytes)",
        json_schema_extra=DASHBOARD,
    )
    trust_remote_code: bool = Field(
        default=False, description="run Python code that comes with the model", json_schema_extra=COMMAND
    )

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, device: str) -> str:
        if not _DEVICE.match(device):
            message = f"device is {shortened(device)}; use auto, cpu, cuda or cuda:N"
            raise ValueError(message)
        return device
