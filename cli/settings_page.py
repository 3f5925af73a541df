"""docs/settings.md from the settings themselves: `python -m cli.settings_page > docs/settings.md`."""

from __future__ import annotations

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from cli.settings import ClientSettings
from doors.settings import DoorSettings, LogSettings, TraceSettings
from param_server.settings import AccessSettings, GenerationSettings, StoreSettings
from realtime_infer.settings import EncoderSettings
from realtime_infer.sink_settings import SinkSettings
from serving.encode_settings import EncodeSettings
from serving.settings import ScorerSettings

_PAGES: tuple[tuple[str, type[BaseSettings]], ...] = (
    ("Every process: the store", StoreSettings),
    ("Every process: its doors", DoorSettings),
    ("Every process: its log", LogSettings),
    ("Traces", TraceSettings),
    ("Commands that ask a door", ClientSettings),
    ("Activation and collection (`repcenter generations`)", GenerationSettings),
    ("Scorer", ScorerSettings),
    ("Scorer: the encoder that it asks", EncodeSettings),
    ("Write door and encoder worker", EncoderSettings),
    ("Offline sink", SinkSettings),
    ("`repcenter table acl`", AccessSettings),
)


def settings_page() -> str:
    """One table per settings class: variable, default, meaning."""
    lines = [
        "# Settings",
        "",
        "Read from the environment at start, once per process. This page is made from the code",
        "(`python -m cli.settings_page > docs/settings.md`) and a test keeps it true.",
    ]
    for title, settings in _PAGES:
        lines += ["", f"## {title}", "", "| variable | default | meaning |", "| --- | --- | --- |"]
        for name, info in settings.model_fields.items():
            computed = info.default is PydanticUndefined
            default = (
                "of this machine" if computed else "unset" if info.default is None else f"`{info.default}`"
            )
            lines.append(f"| `REPCENTER_{name.upper()}` | {default} | {info.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(settings_page(), end="")
