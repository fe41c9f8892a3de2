"""Our access rules compared with Clerk's own JavaScript, on ten thousand random claims.

Needs node and the packages @clerk/backend and @clerk/shared, as .ci/run installs them:

    npm install --prefix .cache/npm @clerk/backend @clerk/shared
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from clerk_async import InvalidArgumentError, reverification_error
from clerk_async.tokens.claims import SessionClaims, read_claims

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parent.parent
CLAIMS: Final = 10_000
NEEDED: Final = ("@clerk/backend/package.json", "@clerk/shared/package.json")

PROGRAM = """
const { createRequire } = require('node:module');
const wanted = createRequire(process.argv[2] + '/x.js');
const { signedInAuthObject, reverificationError } = wanted('@clerk/backend/internal');
const lines = require('node:fs').readFileSync(0, 'utf8').trim().split('\\n');
for (const line of lines) {
  const { claims, questions } = JSON.parse(line);
  let answers;
  try {
    const auth = signedInAuthObject({ secretKey: 'sk_test_x' }, 'token', claims);
    answers = questions.map(question => {
      try { return auth.has(question); } catch { return 'error'; }
    });
  } catch { answers = questions.map(() => 'error'); }
  console.log(JSON.stringify(answers));
}
console.log(JSON.stringify(reverificationError('strict')));
"""


def node_modules() -> Path | None:
    """Return the folder where .ci/run or the user has installed the packages."""
    places = [ROOT / ".cache" / "npm", ROOT / ".cache" / "ci" / "npm"]
    if "CLERK_TESTS_NPM" in os.environ:
        places.insert(0, Path(os.environ["CLERK_TESTS_NPM"]))
    for place in places:
        modules = place / "node_modules"
        if all((modules / name).exists() for name in NEEDED):
            return modules
    return None


MODULES: Final = node_modules()
pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or MODULES is None,
    reason="needs node, and npm install --prefix .cache/npm @clerk/backend @clerk/shared",
)

ODD_AGES: Final[list[Any]] = [*(None, [], [1], [1, 2, 3], ["1", 2], [-5, 0], [0, -2], [0.5, 3], {})]
NAMES = ("dashboard", "teams", "export", "sso", "billing", "pro", "free")
ROLES = ("admin", "member", "org:admin", "org:org:admin", "org:", "")


def random_entries(random_: random.Random) -> str:
    """Make a claim such as `fea`, sometimes of a shape that Clerk never writes."""
    scopes = ("o", "o", "o", "u", "uo", "ou")
    entries = [
        f"{random_.choice(scopes)}:{random_.choice(NAMES)}" for _ in range(random_.randint(0, 5))
    ]
    if random_.random() < 0.06:
        odd = random_.choice(
            ["x:export", "org:export", "bare", " o:sso", "o:teams ", "o:", "oo:a", ""]
        )
        entries.insert(random_.randint(0, len(entries)), odd)
    return ",".join(entries)


def random_map(random_: random.Random, features: str) -> str:
    """Make an `fpm` for the organization's features, for all of them, or for neither."""
    entries = features.split(",") if features else []
    organization = [each for each in entries if each.partition(":")[0] in {"o", "uo", "ou"}]
    length = random_.choice([len(organization)] * 6 + [len(entries)] * 3 + [random_.randint(0, 6)])
    masks = [str(random_.randint(0, 15)) for _ in range(length)]
    if masks and random_.random() < 0.04:
        masks[0] = random_.choice(["-1", "x", "1.0", " 3", "003", "0x1", "", "9" * 30])
    return ",".join(masks)


def random_ages(random_: random.Random) -> Any:
    """Make an `fva`, usually as Clerk does."""
    if random_.random() < 0.06:
        return random_.choice(ODD_AGES)
    ages = (-1, 0, 5, 9, 10, 11, 59, 60, 61, 1439, 1440, 1441)
    return [random_.choice(ages), random_.choice(ages)]


def random_claims(random_: random.Random) -> dict[str, Any]:
    """Make the claims of a genuine token."""
    features = random_entries(random_)
    claims: dict[str, Any] = {
        "sub": "user_1",
        "sid": "sess_1",
        "exp": 2_000_000_000,
        "v": random_.choice([2] * 17 + [1, 1, 3]),
        "fea": features,
        "pla": random_entries(random_),
    }
    ages = random_ages(random_)
    if ages is not None:
        claims["fva"] = ages
    if random_.random() < 0.8:
        permissions = random_.sample(["manage", "read", "create", "delete"], random_.randint(1, 4))
        claims["o"] = {
            "id": random_.choice(["org_1"] * 9 + [""]),
            "rol": random_.choice(ROLES),
            "per": random_.choice([",".join(permissions)] * 30 + [", ".join(permissions)]),
            "fpm": random_map(random_, features),
        }
    if random_.random() < 0.3:
        claims |= {
            "org_id": "org_1",
            "org_role": random_.choice(ROLES),
            "org_permissions": ["org:teams:read", "org:sso:manage"],
        }
    return {name: value for name, value in claims.items() if value != "" or name == "fea"}


def random_question(random_: random.Random) -> dict[str, Any]:
    """Make a question of an app, sometimes an invalid one."""
    kind = random_.choice(["role", "permission", "feature", "plan", "reverification"])
    if kind == "role":
        return {"role": random_.choice(ROLES)}
    if kind == "permission":
        verb = random_.choice(["manage", "read", "create"])
        return {"permission": f"{random_.choice(['org:', ''])}{random_.choice(NAMES)}:{verb}"}
    if kind == "reverification":
        return {"reverification": random_reverification(random_)}
    scope = random_.choice(["", "", "o:", "org:", "organization:", "u:", "user:"])
    asked = scope + random_.choice(NAMES)
    if random_.random() < 0.05:
        asked = random_.choice(["", "o:", ":pro", "uo:export", "team:pro", "o:pro:x", "x:export"])
    return {kind: asked}


def random_reverification(random_: random.Random) -> Any:
    """Make a preset or a custom setting, sometimes an invalid one."""
    if random_.random() < 0.7:
        return random_.choice(["strict_mfa", "strict", "moderate", "lax"])
    if random_.random() < 0.2:
        return random_.choice(["", "strictest", {"level": "third_factor", "afterMinutes": 1}, {}])
    level = random_.choice(["first_factor", "second_factor", "multi_factor"])
    return {"level": level, "afterMinutes": random_.choice([1, 10, 10.5, 60, 1440, 0, -1])}


def our_answer(claims: SessionClaims, question: dict[str, Any]) -> bool | str:
    """Return our answer to the same question."""
    [(kind, asked)] = question.items()
    asks: dict[str, Callable[[Any], bool]] = {
        "role": claims.has_role,
        "permission": claims.has_permission,
        "feature": claims.has_feature,
        "plan": claims.has_plan,
        "reverification": lambda wanted: not claims.needs_reverification(wanted),
    }
    try:
        return asks[kind](asked)
    except InvalidArgumentError:
        return "error"


def entries_of(claims: dict[str, Any], question: dict[str, Any]) -> list[str]:
    """Return the entries that a question is about."""
    name = "pla" if "plan" in question else "fea"
    return claims.get(name, "").split(",") if claims.get(name) else []


def sizes_of(claims: dict[str, Any]) -> tuple[int, int, int]:
    """Return how many features there are, how many the organization has, and how many masks."""
    features = entries_of(claims, {})
    organization = [each for each in features if each.partition(":")[0] in {"o", "uo", "ou"}]
    return len(features), len(organization), len(claims.get("o", {}).get("fpm", "").split(","))


class Case(NamedTuple):
    """A question on which we differ."""

    claims: dict[str, Any]
    asked: dict[str, Any]
    ours: bool | str
    theirs: bool | str

    def texts(self) -> list[str]:
        """Return the claims that decide the question."""
        organization: dict[str, str] = self.claims.get("o", {})
        features: list[str] = self.claims.get("fea", "").split(",")
        return [
            *entries_of(self.claims, self.asked),
            *(features if "permission" in self.asked else []),
            *(organization.get(name, "") for name in ("per", "fpm")),
        ]


DIFFERENCES: Final[dict[str, tuple[str, Callable[[Case], bool]]]] = {
    "a mistake in a setting": (
        "an unknown preset or setting raises InvalidArgumentError here; JavaScript always asks",
        lambda case: (
            (case.ours, case.theirs) == ("error", False) and "reverification" in case.asked
        ),
    ),
    "ages in fractions": (
        "ages are whole minutes; JavaScript takes fractions, which Clerk never writes",
        lambda case: (
            (case.ours, case.theirs) == (False, True)
            and any(isinstance(age, float) for age in case.claims.get("fva", []))
        ),
    ),
    "a later version": (
        "a version above 2 is read like 2; JavaScript reads it like 1",
        lambda case: case.claims["v"] > 2 and bool({"role", "permission"} & set(case.asked)),
    ),
    "an entry without a scope": (
        "only the entry is ignored; JavaScript ignores the whole claim, or even fails the request",
        lambda case: (
            case.theirs in {False, "error"}
            and any(":" not in each for each in _entries_of_any(case.claims))
        ),
    ),
    "a question of odd form": (
        (
            "a feature or plan is asked for by name, or by scope and name; JavaScript ignores a "
            "second colon and what follows, takes the scope for an empty name, and finds an entry "
            "without one"
        ),
        lambda case: any(
            not value or value.count(":") > 1 or value.endswith(":")
            for name, value in case.asked.items()
            if name in {"feature", "plan"}
        ),
    ),
    "blanks": (
        "claims are read as they are; JavaScript trims entries, permissions and numbers",
        lambda case: any(" " in text for text in case.texts()),
    ),
    "a map over all features": (
        (
            "a map with as many numbers as there are features counts over all of them, as Clerk's "
            "documentation has it; JavaScript counts over the organization's"
        ),
        lambda case: (
            "permission" in case.asked
            and sizes_of(case.claims)[0] == sizes_of(case.claims)[2] != sizes_of(case.claims)[1]
        ),
    ),
    "a map of the wrong length": (
        "nothing is granted; JavaScript pairs numbers and features as far as they go",
        lambda case: (
            (case.ours, case.theirs) == (False, True)
            and "permission" in case.asked
            and sizes_of(case.claims)[2] not in sizes_of(case.claims)[:2]
        ),
    ),
}
"""Each difference is deliberate: what differs and why, and how to recognize a case of it."""


def _entries_of_any(claims: dict[str, Any]) -> list[str]:
    return [*entries_of(claims, {"plan": ""}), *entries_of(claims, {"feature": ""})]


@pytest.mark.promise("step-up")
def test_our_answers_match_clerks_own_javascript(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Roles, permissions, features, plans and reverification; each difference is listed above."""
    random_ = random.Random(20_261_127)
    cases: list[dict[str, Any]] = [
        {
            "claims": random_claims(random_),
            "questions": [random_question(random_) for _ in range(6)],
        }
        for _ in range(CLAIMS)
    ]
    script = tmp_path / "ask.cjs"
    script.write_text(PROGRAM, encoding="utf-8")
    ended = subprocess.run(
        ["node", str(script), str(MODULES)],
        input="\n".join(map(json.dumps, cases)) + "\n",
        capture_output=True,
        check=True,
        text=True,
        timeout=55,
    )
    lines: list[Any] = [json.loads(line) for line in ended.stdout.splitlines()]
    answers, body = lines[:-1], lines[-1]
    assert len(answers) == CLAIMS
    found: Counter[str] = Counter()
    agreed: Counter[object] = Counter()
    for case, theirs in zip(cases, answers, strict=True):
        claims = read_claims(json.loads(json.dumps(case["claims"])))
        for question, their_answer in zip(case["questions"], theirs, strict=True):
            ours = our_answer(claims, question)
            if ours == their_answer:
                agreed[ours] += 1
                continue
            differs = Case(case["claims"], question, ours, their_answer)
            kinds = [name for name, row in DIFFERENCES.items() if row[1](differs)]
            assert kinds, differs
            found[kinds[0]] += 1
    assert body == reverification_error("strict")
    table = [f"{agreed.total()} answers agree ({agreed[True]} yes), {found.total()} differ:"]
    table += [f"  {found[name]:5} {name}: {row[0]}" for name, row in DIFFERENCES.items()]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(table) + "\n")
    assert set(found) == set(DIFFERENCES), "a row of the table that never applies explains nothing"
    assert agreed[True] > 10_000
