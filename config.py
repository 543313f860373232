"""All settings: one frozen object, read once from the environment and validated together."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from complaints import did_you_mean, sentences, unknown_names
from errors import StartError
from inputs import Accepts, Fit
from logs import LogFormat
from setting_types import Names, Numbers, Seconds, SecondsOrZero, Shape, Sizes, empty_is_unset

PREFIX = "MICROBATCH_"
BUILT_IN_MODELS = ("digits", "simulated", "tf-serving", "open-inference", "efficientnet-lite0")
OWN_MODEL = r"python:[A-Za-z_][\w.]*:[A-Za-z_]\w*|onnx:.+"
IMAGE_FORMATS = ("jpeg", "png", "webp", "gif", "bmp", "tiff")
SEPARATOR = "__"
"""Between the name of a model and that of a setting: such variables are read by model_set.py."""
MODEL_NAME = r"[a-z0-9]+(?:_[a-z0-9]+)*"


class Settings(BaseSettings):
    """The settings of every process; each is read from `MICROBATCH_<NAME>`, Redis's address from `REDIS_URL`.

    Durations are float seconds and end in `_s`, sizes end in `_bytes`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    # Redis and the queue
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias="REDIS_URL",
        description="Where Redis or Valkey (6.2 or later) listens; `unix://` paths too.",
    )
    redis_timeout_s: Seconds = Field(
        2.0, ge=0.2, description="How long Redis may be silent when it is asked something."
    )
    queue_name: str = Field(
        "default",
        description="The queue in Redis; services with different models on one Redis need different names.",
    )
    max_batch_size: int = Field(32, ge=1, le=1024, description="The most images in one model call.")
    max_wait_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = Field(
        0.0, description="How old the oldest job may get while a batch fills; 0 runs at once whatever is there."
    )
    max_queue_depth: int = Field(
        1024, ge=1, le=1_000_000, description="Unfinished jobs (queued and leased) before requests are refused."
    )
    max_results: int = Field(
        10_000, ge=1, description="Results waiting to be collected before `respond-async` requests are refused."
    )
    request_timeout_s: Seconds = Field(30.0, description="The deadline of a request that waits for its answer.")
    async_timeout_s: Seconds = Field(300.0, description="The deadline of a `respond-async` request.")
    result_ttl_s: Seconds = Field(300.0, ge=1, description="How long a result may be collected.")
    lease_s: Seconds = Field(
        2.0, ge=0.1, description="How long a claimed job belongs to its batcher unless renewed: the time to recovery."
    )
    max_solo: int = Field(3, ge=1, description="Batcher deaths alone with a job before the job is given up.")
    worker_timeout_s: Seconds = Field(5.0, ge=1.5, description="Silence after which a batcher counts as gone.")
    shutdown_grace_s: SecondsOrZero = Field(5.0, description="Time to finish what is held after SIGTERM.")
    drain_delay_s: SecondsOrZero = Field(
        0.0,
        description="How long an api still serves after SIGTERM, while `/health/ready` says 503.",
    )

    # HTTP
    max_body_bytes: int = Field(20 * 1024 * 1024, ge=1, description="The longest request body.")
    body_timeout_s: Seconds = Field(30.0, description="How long a request body may take to arrive.")
    max_held_bytes: int = Field(
        512 * 1024 * 1024,
        ge=1,
        description="The memory that one api process takes for all its requests, decoding included: beyond it they are "
        "refused. With what it takes when idle and 150 MB it is the most that the process takes; only what connections "
        "send before they are looked at, up to 256 KB each, and predictions come on top.",
    )
    max_pixels: int = Field(25_000_000, ge=1, description="The most pixels of one image, looked at before decoding.")
    max_images_per_request: int = Field(64, ge=1, le=1024, description="The most images in one request.")
    image_formats: Names = Field(IMAGE_FORMATS, min_length=1, description="The image formats taken.")
    decode_in: Literal["auto", "api"] = Field(
        "auto", description="Who decodes: the batcher where the file is smaller than its tensor, or always the `api`."
    )
    decode_threads: int = Field(
        0, ge=0, le=256, description="Threads a process decodes images on; 0: one a core (`make run` shares them out)."
    )

    served_name: str = Field(
        "model", description="The model's name on the paths of TF-Serving and Open Inference; its version is 1."
    )
    served_input: str = Field("input", description="The name of its one input there.")

    # The models
    models: Names = Field(
        (), description="The names of several models, such as `digits,photos`, the default one first; empty: one model."
    )
    model: str = Field(
        "digits",
        description="`digits`, `efficientnet-lite0`, `simulated`, `tf-serving`, `open-inference`, `onnx:path` or "
        "`python:module:name`.",
    )
    model_timeout_s: Seconds = Field(20.0, description="How long one model call may take.")
    allowed_batch_sizes: Sizes = Field(
        (),
        description="The sizes of batch that the model is made for, such as `1,8,32`: others are padded; empty: any.",
    )
    input_shape: Shape = Field(
        None, description="Shape of one image's tensor, such as `224,224,3`; empty: what the model says."
    )
    input_dtype: str | None = Field(None, description="Its numpy dtype; empty: what the model says, else `uint8`.")
    accepts: Accepts | None = Field(
        None, description="`tensor`, or `encoded`: the model decodes image files itself; empty: what the model says."
    )
    fit: Fit | None = Field(
        None, description="How images are brought to size: `stretch`, `pad`, `crop` or `ink`; empty: the model's own."
    )
    input_scale: float = Field(1.0, allow_inf_nan=False, description="Each value is multiplied by this first.")
    input_mean: Numbers = Field((), description="Then this is subtracted: one number, or one a channel.")
    input_std: Numbers = Field((), description="Then it is divided by this: one number, or one a channel.")
    input_layout: Literal["nhwc", "nchw"] = Field("nhwc", description="The order of axes that the model takes.")
    model_dtype: str | None = Field(
        None, description="The dtype handed to the model; empty: `float32` when scaled, else as it came."
    )
    python_runs_in: Literal["thread", "process"] = Field(
        "thread", description="Where your own code runs: `process` if it holds Python's lock or may crash."
    )
    tf_serving_url: str = Field("http://127.0.0.1:8501", description="Where TF-Serving's REST port is.")
    tf_serving_name: str = Field("model", min_length=1, description="The name of the model there.")
    tf_serving_version: int | None = Field(None, ge=0, description="Its version; empty: the latest.")
    tf_serving_label: str | None = Field(None, description="The label of its version, instead of a number.")
    tf_serving_signature: str = Field("serving_default", min_length=1, description="The signature to call.")
    tf_serving_input: str | None = Field(None, description="Name its input in every row; empty: the rows are bare.")
    tf_serving_format: Literal["row", "columnar"] = Field("row", description="How a batch is sent.")
    tf_serving_gzip: bool = Field(
        default=False, description="Compress large bodies: pays where the way there is slower than about 100 MB/s."
    )
    onnx_threads: int = Field(
        0, ge=0, le=256, description="Threads of one call in ONNX Runtime; 0: one a core, for one batcher a machine."
    )
    labels: str | None = Field(
        None, description="File of the names of an ONNX model's classes, one a line: it answers the best of them."
    )
    top_k: int = Field(
        0, ge=0, le=1000, description="How many of the best classes it answers; 0: five with labels, else all scores."
    )
    inference_url: str = Field("http://127.0.0.1:8000", description="Where the Open Inference server's HTTP port is.")
    inference_name: str = Field("model", min_length=1, description="The name of the model there.")
    inference_version: str | None = Field(None, description="Its version; empty: the one that the server chooses.")
    inference_input: str | None = Field(None, description="The input that is sent; empty: the only one it declares.")
    inference_binary: Literal["auto", "on", "off"] = Field(
        "auto", description="Send tensors as raw bytes instead of JSON; `auto`: where the server lists that extension."
    )
    simulated_batch_s: SecondsOrZero = Field(0.0, description="What the `simulated` model takes a batch.")
    simulated_image_s: SecondsOrZero = Field(0.0, description="What the `simulated` model takes an image.")
    simulated_decode_s: SecondsOrZero = Field(0.0, description="Added to the decoding of a request; for measuring.")

    # The process
    metrics: bool = Field(default=True, description="Count and measure: for `/metrics`, the page and `tools.top`.")
    batcher_metrics_port: int = Field(
        0, ge=0, le=65_535, description="Port of a batcher's own `/metrics` and `/health/live`; 0: none."
    )
    batcher_metrics_host: str = Field("127.0.0.1", min_length=1, description="The address that it listens on.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    log_format: LogFormat = Field("auto", description="`human`, `json`, or `auto`: human on a terminal, else JSON.")
    traces: Literal["off", "otlp"] = Field(
        "off", description="`otlp` sends traces to where `OTEL_EXPORTER_OTLP_ENDPOINT` says."
    )

    @field_validator(
        *("input_dtype", "accepts", "fit", "model_dtype"),
        *("tf_serving_version", "tf_serving_label", "tf_serving_input", "labels"),
        *("inference_version", "inference_input"),
        mode="before",
    )
    @classmethod
    def _optional(cls, value: object) -> object:
        return empty_is_unset(value)

    @field_validator("input_dtype", "model_dtype")
    @classmethod
    def _known_dtype(cls, value: str | None) -> str | None:
        try:
            if value is None or np.dtype(value).kind in "biuf":
                return value
        except (TypeError, ValueError, SyntaxError):  # numpy parses some texts as Python
            pass
        raise ValueError("must be the numpy name of a boolean, integer or float, such as uint8 or float32")

    @field_validator("queue_name", "served_name", "served_input")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
            raise ValueError("must be 1 to 64 letters, digits, dots, hyphens or underscores")
        return value

    @field_validator("models")
    @classmethod
    def _model_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(MODEL_NAME, name) or len(name) > 64:
                raise ValueError(f"{name or 'an empty name'} is not 1 to 64 lower-case letters, digits and single _")
            if value.count(name) > 1:
                raise ValueError(f"{name} is named twice")
        return value

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value in BUILT_IN_MODELS or re.fullmatch(OWN_MODEL, value):
            return value
        rule = f"must be {', '.join(BUILT_IN_MODELS)}, onnx:path or python:module:name"
        raise ValueError(rule + did_you_mean(value, BUILT_IN_MODELS))

    @field_validator("tf_serving_url", "inference_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("redis_url")
    @classmethod
    def _readable_url(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        try:
            _ = urlsplit(value).port
        except ValueError:
            raise ValueError("must be an address such as redis://:password@host:6379/0") from None
        return value

    @field_validator("image_formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.lower() for name in value)
        unknown = [name for name in names if name not in IMAGE_FORMATS]
        if unknown:
            raise ValueError(f"{unknown[0]} is none of {', '.join(IMAGE_FORMATS)}")
        return names

    @field_validator("allowed_batch_sizes")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @field_validator("input_std")
    @classmethod
    def _no_zero(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(number == 0 for number in value):
            raise ValueError("must not be 0")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.max_images_per_request > self.max_queue_depth:
            raise ValueError(
                f"{PREFIX}MAX_IMAGES_PER_REQUEST={self.max_images_per_request}: "
                f"must be at most MAX_QUEUE_DEPTH={self.max_queue_depth}"
            )
        if self.tf_serving_label is not None and self.tf_serving_version is not None:
            raise ValueError(f"{PREFIX}TF_SERVING_LABEL={self.tf_serving_label}: goes without TF_SERVING_VERSION")
        if self.max_wait_s >= self.request_timeout_s:
            raise ValueError(
                f"{PREFIX}MAX_WAIT_S={self.max_wait_s}: must be less than REQUEST_TIMEOUT_S={self.request_timeout_s}"
            )
        return self


def load_settings() -> Settings:
    """Read the settings that all models have in common from the environment; see model_set.py for those of each.

    Raises StartError naming key, value and rule, one line for all that is wrong.
    """
    known = {variable_name(field): field for field in Settings.model_fields}
    models = os.environ.get(PREFIX + "MODELS", "").upper().split(",")  # what they are named tells what may be meant
    fields = [field.upper() for field in Settings.model_fields]
    of_each = [f"{PREFIX}{model.strip()}{SEPARATOR}{field}" for model in models for field in fields]
    wrong = unknown_names((name for name in os.environ if SEPARATOR not in name), PREFIX, [*known, *of_each])
    try:
        settings = Settings()
    except ValidationError as exc:
        names = {field: name for name, field in known.items()}
        raise StartError("; ".join([*sentences(exc, names, os.environ), *wrong])) from exc
    if wrong:
        raise StartError("; ".join(wrong))
    return settings


def variable_name(field: str) -> str:
    """Return the environment variable that sets a field."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field.upper()
