"""The oldest versions that pyproject.toml allows of what teachers and trainings need, for pip (`make test-oldest`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib


def oldest(requirement: str) -> str | None:
    """`name==version` of a requirement with a lower bound; None where another Python is meant."""
    if "python_version" in requirement:
        return None
    found = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement)
    assert found, f"{requirement}: no lower bound"
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = dict.fromkeys([*project["dependencies"], *extras["train"], *extras["teachers"]])
    sys.stdout.write("".join(f"{line}\n" for line in map(oldest, requirements) if line))
