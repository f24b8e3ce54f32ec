"""The tables of networks of other packages: what became of each, what is not reached, and what is refused."""

import re
from collections.abc import Iterator

from benchmarks.harness.markdown import percent, table
from benchmarks.harness.results import Row, read_lines

ENOUGH = 0.95
NAMES = {"paper": "Ghost modules", "absorbed": "absorbed ghosts"}
TOLD = ("calibrate", "load", "train")


def tables() -> dict[str, str]:
    by_network: dict[str, dict[str, Row]] = {}
    for row in read_lines("packages.jsonl"):
        by_network.setdefault(row["network"], {})[row["kind"]] = row["steps"]
    names = ("reached", "fold", "export", "others")
    header = ["network", *(f"{NAMES[kind]}: {name}" if name == "reached" else name for kind in NAMES for name in names)]
    lines = [[name, *(cell for kind in NAMES for cell in cells(kinds.get(kind, {})))] for name, kinds in by_network.items()]
    short = [f"- {text}" for text in grouped(short_of(by_network))]
    refused = [f"- {text}" for text in grouped(not_done(by_network))]
    return {
        "packages": table(header, lines),
        "packages_short": "\n".join(short) or "None.",
        "packages_refused": "\n".join(refused) or "None.",
        "packages_counts": counts(by_network),
    }


def cells(steps: dict[str, Row]) -> list[str]:
    """What is reached, how far fold and export are from the student, and whether all other steps went well."""
    if "sites" not in steps.get("convert", {}):
        return [steps["convert"]["result"] if "convert" in steps else "", "", "", ""]
    offs = [off(steps[step]) if step in steps else "" for step in ("fold", "export")]
    other = [f"{step} {steps[step]['result']}" for step in TOLD if steps[step]["result"] != "ok"]
    return [share(steps["convert"]["reached"]), *offs, ", ".join(other) or "ok"]


def share(reached: float | None) -> str:
    return "none dense" if reached is None else percent(reached)


def off(step: Row) -> str:
    return (f"{step['off']:.0e}" if step["off"] else "0") if step["result"] == "ok" else step["result"]


def short_of(by_network: dict[str, dict[str, Row]]) -> Iterator[tuple[str, str]]:
    """Why less than 95 % is reached, and the network with the share of that reason."""
    for name, kinds in by_network.items():
        for kind, steps in kinds.items():
            reached = steps["convert"].get("reached")
            if reached is not None and reached < ENOUGH:
                for reason, part in merged(steps["convert"]["left"]).items():
                    if part >= 0.01:
                        yield f"{NAMES[kind]}: {reason}", f"{name} ({percent(part)})"


def merged(left: dict[str, float]) -> dict[str, float]:
    """Shares by reason, whatever layers the reasons name."""
    shares: dict[str, float] = {}
    for reason, part in left.items():
        plain = re.sub(r"^[\w.]+(?=, an? )|(?<= of )[\w.]+(?= reads| combines| joins)|^[\w]+\.[\w.]+(?= is )", "...", reason)
        shares[plain] = shares.get(plain, 0) + part
    return shares


def not_done(by_network: dict[str, dict[str, Row]]) -> Iterator[tuple[str, str]]:
    """The sentence of each step that is refused or went wrong, and its network."""
    for name, kinds in by_network.items():
        for kind, steps in kinds.items():
            for step, row in steps.items():
                if row["result"] != "ok":
                    also = "; the original is refused, too" if row.get("original") else ""
                    yield f"{step} {row['result']}: {row['text']}{also}", f"{name} ({NAMES[kind]})"


def grouped(pairs: Iterator[tuple[str, str]]) -> list[str]:
    """Texts with all that they are true of."""
    names: dict[str, list[str]] = {}
    for text, name in pairs:
        names.setdefault(text, []).append(name)
    return [f"{text}: {', '.join(found)}" for text, found in names.items()]


def counts(by_network: dict[str, dict[str, Row]]) -> str:
    """The totals in a sentence for each kind."""
    lines = []
    for kind, name in NAMES.items():
        steps = [kinds[kind] for kinds in by_network.values() if kind in kinds]
        results = [row["result"] for one in steps for row in one.values()]
        shares = [one["convert"]["reached"] for one in steps if one["convert"].get("reached") is not None]
        enough = sum(reached >= ENOUGH for reached in shares)
        lines.append(
            f"- {name}: {len(steps)} networks, {len(results)} steps, {results.count('ok')} went well, "
            f"{results.count('refused')} are refused, {results.count('fault')} went wrong; "
            f"{enough} of {len(shares)} networks with dense convolutions reached 95 %"
        )
    return "\n".join(lines)
