"""Why an exporter failed, in one sentence without its banners."""

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_BANNERS = (  # what exporters say before they come to the cause
    *("Failed to export", "Failed to decompose", "Failed to convert the exported program", "Check '", "FrontEnd API failed"),
    *("Model wasn't fully converted", "Summary:", "Couldn't get TorchScript module", "Traceback "),
)


def failure_reason(error: BaseException) -> str:
    """The first sentence that tells a cause, of the exception that others were raised from.

    Args:
        error: what an exporter raised.
    """
    while error.__cause__ is not None and str(error.__cause__).strip():
        error = error.__cause__
    lines = [line.strip(" -") for line in _COLOURS.sub("", str(error)).splitlines() if line.strip(" -")]
    telling = [line for line in lines if not line.startswith(_BANNERS)] or lines or [""]
    places = [line.removeprefix("Caused by: ") for line in telling if line.startswith("Caused by: (")]
    place = next((place for place in places if not place.startswith("(_")), "")  # not torch's own code
    reason = " ".join(part for part in (telling[0], place) if part)
    return reason if " " in reason else f"{type(error).__name__}: {reason}".rstrip(": ")
