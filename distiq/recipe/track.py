"""Where a run is also told, beside its own folder."""

import urllib.parse
from typing import ClassVar

from pydantic import Field, field_validator

from distiq.recipe.part import Part


class TrackSettings(Part):
    """Trackers that are told recipe, losses, metrics, trials and files of `distiq run`; they change no result."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"mlflow", "tensorboard", "trackio", "wandb"})

    mlflow: str = Field(
        "",
        description='a tracking URI, such as "http://127.0.0.1:5000" or "sqlite:///mlflow.db"; a password stands in'
        " MLFLOW_TRACKING_PASSWORD",
    )
    tensorboard: bool = Field(False, description="event files in the run folder's tensorboard/")
    trackio: bool = Field(False, description="Trackio's own database on this machine")
    wandb: bool = Field(False, description="Weights & Biases, as this machine is logged in; WANDB_MODE=offline too")

    @field_validator("mlflow")
    @classmethod
    def _uri_holds_no_password(cls, uri: str) -> str:
        if uri.startswith(("http://", "https://")) and urllib.parse.urlsplit(uri).password:
            raise ValueError(
                "mlflow: the URI holds a password, which would stand in every record of the run; put it into"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri

    @property
    def chosen(self) -> tuple[str, ...]:
        """The trackers that are told."""
        return tuple(name for name in ("mlflow", "tensorboard", "trackio", "wandb") if getattr(self, name))
