"""The window's Redis script against a simple model: any messages, at any times, in any order."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_model import WindowModel

from clerk_async.pacing.key_window import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_servers import RedisServer

CLOCK: Final = "redis.call('TIME')"
MADE_UP: Final = "redis.call('HMGET', 'clock', 'seconds', 'micro')"
KEYS: Final = ("window", "places", "members", "leases", "feed")
PER: Final = 1000
KINDS: Final = ("single", "run", "cap7")


class Scripted:
    """A script in a real Redis with a simulated clock, and the model beside it."""

    def __init__(self, server: RedisServer, script: str = SCRIPT) -> None:
        import redis  # noqa: PLC0415 - for these tests alone

        self.redis: Any = redis.Redis(port=server.port)
        self.digest: Any = self.redis.script_load(script.replace(CLOCK, MADE_UP))
        self.begin()

    def begin(self) -> None:
        """Start with nothing."""
        self.redis.flushall()
        self.model = WindowModel()
        self.clock = 1_800_000_000_000

    def forget(self) -> None:
        """Erase the server's data, as after a restart."""
        self.redis.flushall()
        self.model = WindowModel()

    def run(self, message: dict[str, Any]) -> dict[str, Any]:
        """Run the script alone."""
        clock = {"seconds": self.clock // 1000, "micro": self.clock % 1000 * 1000}
        with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.hset("clock", mapping=clock)
            pipeline.evalsha(self.digest, len(KEYS), *KEYS, json.dumps(message))
            reply: dict[str, Any] = json.loads(pipeline.execute()[1])
        reply["granted"] = list(reply["granted"])
        return reply

    def agree(self, message: dict[str, Any]) -> dict[str, Any]:
        """Run both, and compare their replies."""
        expected = self.model.run(message, self.clock)
        found = self.run(message)
        assert found == expected, message
        return found


@pytest.fixture
def scripted(redis_server: RedisServer) -> Iterator[Scripted]:
    """Yield the script and its model."""
    made = Scripted(redis_server)
    yield made
    made.redis.close()


counts = st.integers(min_value=0, max_value=12)
kinds = st.sampled_from(KINDS)
held = st.dictionaries(kinds, st.integers(min_value=1, max_value=9), max_size=3)
done = st.lists(
    st.fixed_dictionaries({"kind": kinds, "count": st.integers(1, 9), "age": st.integers(0, 1200)}),
    max_size=3,
)
cooling = st.lists(
    st.fixed_dictionaries(
        {"kind": kinds, "count": st.integers(1, 9), "left": st.integers(-5, 1001)}
    ),
    max_size=3,
)
wants = st.lists(
    st.sampled_from(["run", "cap7"]).flatmap(
        lambda kind: st.fixed_dictionaries(
            {
                "kind": st.just(kind),
                "count": st.integers(1, 40),
                "cap": st.just(7 if kind == "cap7" else 0),
            }
        )
    ),
    max_size=2,
)
news: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just(dict[str, Any]()),
    st.fixed_dictionaries(
        {"pause": st.integers(0, 3000), "reason": st.sampled_from(["rate_limited", "unavailable"])}
    ),
    st.fixed_dictionaries({"level": st.integers(-1, 20), "age": st.integers(-1000, 1000)}),
    st.fixed_dictionaries({"raise": st.integers(1, 5), "refusals": st.integers(0, 3)}),
)
acts = st.sampled_from(["tell"] * 6 + ["join"] * 2 + ["bye"])


@st.composite
def steps(draw: st.DrawFn) -> tuple[Any, ...]:
    """Draw the next step: time passes, a process sends a message, or Redis forgets."""
    what = draw(st.sampled_from(["message"] * 8 + ["wait"] * 4 + ["back", "forget"]))
    if what == "wait":
        return what, draw(st.sampled_from([1, 7, 50, 400, 999, 1000, 3001, 20_000]))
    if what == "back":
        return what, draw(st.sampled_from([1, 500, 3_600_000]))
    if what == "forget":
        return (what,)
    return (
        what,
        draw(st.sampled_from(["a", "b", "ab"])),  # one name is a prefix of another
        draw(acts),
        draw(st.sampled_from([1] * 8 + [0, -1, 2])),  # by how much its number increases
        draw(st.sampled_from(["known"] * 8 + ["other"])),
        {
            "held": draw(held),
            "done": draw(done),
            "cooling": draw(cooling),
            "wants": draw(wants),
            "allowed": draw(st.integers(1, 20)),
            "company": draw(st.sampled_from([0, 0, 1, 2, 4])),
            "least": draw(st.integers(1, 3)),
            "late": draw(st.sampled_from([0] * 8 + [1])),
            "news": draw(news),
        },
    )


class Talk:
    """Keeps the numbers of the processes, so that most messages are valid."""

    def __init__(self, scripted: Scripted) -> None:
        self.scripted = scripted
        self.seq: dict[str, int] = {}
        self.heard: dict[str, int] = {}
        self.epoch: dict[str, str] = {}
        self.nonces = 0

    def message(
        self, name: str, act: str, by: int = 1, whose: str = "known", **told: Any
    ) -> dict[str, Any]:
        """Make a message."""
        self.seq[name] = seq = max(0, self.seq.get(name, 0) + by)
        self.nonces += 1
        late = told.pop("late", 0)
        given: dict[str, Any] = {"news": {}, **told}
        return {
            "id": name,
            "act": act,
            "nonce": f"n{self.nonces}",
            "epoch": self.epoch.get(name, "") if whose == "known" else "another",
            "seq": seq,
            "heard": self.heard.get(name, 0),
            "clock": self.scripted.clock + {"a": 0, "b": 700, "ab": -700}[name],
            "latest": self.scripted.clock + self.scripted.model.shift + (-1 if late else 250),
            "per": PER,
            "lease": 3000,
            "settle": 600,
            "idle": 86_400_000,
            "keep": 3_600_000,
            "ticks": 20,
            "allowed": 10,
            "limit": 20,
            "company": 0,
            "least": 1,
            "held": {},
            "done": [],
            "cooling": [],
            "wants": [],
            **given,
        }

    def heard_of(self, message: dict[str, Any], reply: dict[str, Any]) -> None:
        """Process a reply as a process does."""
        name = message["id"]
        self.epoch[name] = reply["epoch"]
        if reply["verdict"] == "ok":
            self.heard[name] = message["seq"]


@pytest.mark.slow
@pytest.mark.promise("window-script")
@settings(max_examples=150)
@given(st.lists(steps(), min_size=1, max_size=40))
def test_the_script_agrees_with_the_model(scripted: Scripted, story: list[Any]) -> None:
    """For all messages: held and reported places, joins, leaves, late and repeated messages."""
    play(scripted, story)


@pytest.mark.promise("window-script")
def test_the_script_agrees_with_the_model_in_drawn_stories(scripted: Scripted) -> None:
    """The stories are of a kind that exposes each wrong script, as below."""
    for seed in range(40):
        play(scripted, drawn_story(seed))


def play(scripted: Scripted, story: list[Any]) -> None:
    """Run a story, and compare the replies at each step."""
    scripted.begin()
    talk = Talk(scripted)
    for what, *details in story:
        if what == "wait":
            scripted.clock += details[0]
        elif what == "back":
            scripted.clock -= details[0]
        elif what == "forget":
            scripted.forget()
        else:
            name, act, by, whose, told = details
            message = talk.message(name, act, by, whose, **told)
            talk.heard_of(message, scripted.agree(message))


@pytest.mark.promise("window-script")
@pytest.mark.parametrize(
    "gone",
    [("window",), ("places",), ("members",), ("leases",), ("members", "leases")],
    ids=" ".join,
)
def test_a_key_evicted_by_redis_costs_no_place_forever(
    scripted: Scripted, gone: tuple[str, ...]
) -> None:
    """The window starts again, all processes report their places, and none is counted twice."""
    talk = Talk(scripted)

    def say(name: str, act: str, **told: Any) -> dict[str, Any]:
        message = talk.message(name, act, **told)
        reply = scripted.run(message)
        talk.heard_of(message, reply)
        return reply

    for name in "ab":
        say(name, "join")
    scripted.clock += 700
    wants = [{"kind": "run", "count": 3, "cap": 0}]
    assert say("a", "tell", wants=wants)["granted"] == [3]
    done = [{"kind": "run", "count": 2, "age": 0}]
    before = say("a", "tell", held={"run": 1}, done=done)
    assert (before["used"], before["cooling"]) == (3, 2)
    scripted.redis.delete(*gone)
    assert say("b", "tell")["verdict"] == "join"
    cooling = [{"kind": "run", "count": 2, "left": 900}]
    assert say("a", "join", held={"run": 1}, cooling=cooling)["used"] == 3
    say("b", "join")
    scripted.clock += 950
    last = say("a", "tell")
    assert (last["verdict"], last["used"], last["processes"]) == ("ok", 0, 2)


STORIES: Final = 1000
"""Each of the scripts below is detected within the first two hundred stories."""
MUTANTS: Final = {
    "a client's clock": ("time[1] * 1000 + math.floor(time[2] / 1000)", "message.clock"),
    "from the acquisition": (
        "held[want.kind] = (held[want.kind] or 0) + count",
        "cool(id, want.kind, count, now + message.per)",
    ),
    "no epoch": ("record and message.epoch == epoch", "record"),
    "no wait after a loss": ("now, 'shift', shift)\n  settle()", "now, 'shift', shift)"),
    "no wait after an absence": ("  settle() -- nobody", "  -- nobody"),
    "a late command grants": ("now < settled or now > message.latest", "now < settled"),
    "a repeated message counts": ("elseif message.seq <= record.seq then", "elseif false then"),
    "forgotten answers go unnoticed": ("record.seq < message.heard", "false"),
    "the dead keep their places": ("for index = 1, #dead, 2 do", "for index = 1, 0, 2 do"),
    "the dead free them at once": ("free_at + record.per)", "free_at)"),
    "a clock that goes back": ("now = number('now')", ""),
    "joining adds": ("give_back(mine)", ""),
    "another's name": ("#id + 1) == id .. ' '", "#id) == id"),
    "nobody is missed": ("message.company > 1", "false"),
    "missed forever": ("now < number('missed') then", "number('missed') > 0 then"),
    "no cap": ("if want.cap > 0", "if false"),
    "single calls are not expected": ("math.max(0, expected - single)", "0"),
    "single calls leave nothing": (", message.least - (used - single))", ")"),
    "a shorter pause ends a longer one": ("now + news.pause > number('paused')", "true"),
    "each refusal counts": ("now < number('refused') then", "false then"),
    "an old level is raised": ("news.refusals == number('refusals') and", ""),
}


@pytest.mark.promise("window-script")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_script_disagrees(redis_server: RedisServer, mutant: str) -> None:
    """Removing any rule of the window is detected by the model."""
    right, wrong = MUTANTS[mutant]
    assert SCRIPT.count(right) == 1
    scripted = Scripted(redis_server, SCRIPT.replace(right, wrong))
    assert any(disagrees(scripted, drawn_story(seed)) for seed in range(STORIES))
    scripted.redis.close()


def disagrees(scripted: Scripted, story: list[Any]) -> bool:
    """Return whether a script and the model differ somewhere in a story."""
    try:
        play(scripted, story)
    except AssertionError:
        return True
    return False


def drawn_story(seed: int) -> list[Any]:
    """Draw a story as `steps` does, the same each time."""
    chance = random.Random(seed)

    def some(most: int, **bounds: tuple[int, int]) -> list[dict[str, Any]]:
        return [
            {"kind": chance.choice(KINDS)}
            | {name: chance.randint(*each) for name, each in bounds.items()}
            for _ in range(chance.randint(0, most))
        ]

    def news() -> dict[str, Any]:
        return chance.choice(
            [
                {},
                {"pause": chance.randint(0, 3000), "reason": "rate_limited"},
                {"level": chance.randint(-1, 20), "age": chance.randint(-1000, 1000)},
                {"raise": chance.randint(1, 5), "refusals": chance.randint(0, 3)},
            ]
        )

    story: list[Any] = []
    for _ in range(40):
        draw = chance.random()
        if draw < 0.3:
            story.append(("wait", chance.choice([1, 7, 20, 50, 50, 400, 999, 1000, 3001, 20_000])))
        elif draw < 0.35:
            story.append(("back", chance.choice([1, 500, 3_600_000])))
        elif draw < 0.4:
            story.append(("forget",))
        else:
            told = {
                "held": {each: chance.randint(1, 9) for each in KINDS if chance.random() < 1 / 3},
                "done": some(2, count=(1, 9), age=(0, 1200)),
                "cooling": some(2, count=(1, 9), left=(-5, 1001)),
                "wants": [
                    {"kind": kind, "count": chance.randint(1, 40), "cap": cap}
                    for kind, cap in chance.choices([("run", 0), ("cap7", 7)], k=2)
                    if chance.random() < 0.6
                ],
                "allowed": chance.randint(1, 20),
                "company": chance.choice([0, 0, 1, 2, 3, 4]),
                "least": chance.randint(1, 3),
                "late": chance.random() < 0.1,
                "news": news(),
            }
            act = chance.choice(["tell"] * 6 + ["join"] * 2 + ["bye"])
            by = chance.choice([1] * 8 + [0, -1, 2])
            whose = chance.choice(["known"] * 8 + ["other"])
            story.append(("message", chance.choice(["a", "b", "ab"]), act, by, whose, told))
    return story
