"""What is refused before a run is started, retried or cancelled, wherever it is to run."""

from pathlib import Path

from mistudio.errors import ConfigError, InputError, SubjectError
from mistudio.plain_text import shortened
from mistudio.redaction import secret_setting
from mistudio.runs import checkout
from mistudio.runs.run import Run, Settings, Target
from mistudio.steps import named
from mistudio.steps.given import check, sort_given

# Settings that name a file or folder, with what to do where it lies on another machine.
_PLACES = {
    "corpus": "add it to the store that the run uses (mistudio corpus add) and give the name that it gets there",
    "model": "give its id on the model hub, or publish it in the store that the run uses and give subject/...",
}
# What this machine may lack, and another may have.
_OF_A_MACHINE = ("quantization",)


def check_request(target: Target, settings: Settings, *, elsewhere: bool = False) -> None:
    """Refuse what could not run, or must not be written into a record.

    Args:
        target: What is to run.
        settings: Its settings.
        elsewhere: It runs on another machine: what this one lacks is no reason to refuse it, and what lies here alone
            is.

    Raises:
        ConfigError: A setting is refused.
        SubjectError: The model cannot be loaded so.
    """
    secret = secret_setting(settings)
    if secret is not None:
        message = f"{secret} looks like a secret, and settings are written down. Give it as an environment variable."
        raise ConfigError(message)
    if "store" in settings:
        message = "store is the runner's, and no setting of a run: leave it out."
        raise ConfigError(message)
    if target.kind == "step":
        _check_step(target.name, settings)
    elif elsewhere:
        _refuse_local_files(settings)
        _check_elsewhere(target.name, settings)
    else:
        checkout.check_settings(checkout.load_pipeline(target.name), dict(settings))


def refuse_retry(run: Run) -> None:
    """Refuse to go on with a run that goes on by itself, or has nothing left to do.

    Raises:
        InputError: It is one.
    """
    if not run.has_ended or run.state == "finished":
        how = "has finished" if run.state == "finished" else f"is {run.state}"
        message = f"Run {run.id} cannot be retried: it {how}. What failed or was cancelled can."
        raise InputError(message)


def refuse_cancel(run: Run) -> None:
    """Refuse to end a run that has ended.

    Raises:
        InputError: It has.
    """
    if run.has_ended:
        how = "was cancelled" if run.state == "cancelled" else f"has {run.state}"
        message = f"Run {run.id} cannot be cancelled: it {how} already."
        raise InputError(message)


def _check_step(name: str, settings: Settings) -> None:
    step = named(name)
    sort_given(step, settings)  # names what is missing or unknown
    asked = check(step, settings)
    if step.check is not None:
        step.check(asked, {})


def _check_elsewhere(name: str, settings: Settings) -> None:
    """All checks but those of this machine: a value that is out of range is refused by the first of the two."""
    pipeline = checkout.load_pipeline(name)
    try:
        checkout.check_settings(pipeline, dict(settings))
    except SubjectError:
        checkout.check_settings(pipeline, {key: each for key, each in settings.items() if key not in _OF_A_MACHINE})


def _refuse_local_files(settings: Settings) -> None:
    for name, instead in _PLACES.items():
        value = str(settings.get(name) or "")
        if value.startswith((".", "~")) or (value.startswith("/") and Path(value).exists()) or Path(value).is_file():
            message = f"{name} {shortened(value)} lies on this machine, where the run's pods do not see it: {instead}."
            raise ConfigError(message)
