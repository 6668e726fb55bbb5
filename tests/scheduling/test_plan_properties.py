"""The plan's invariants, over random queues, lineages, histories and refusals."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from rayunlearn.scheduling.costs import CostSettings, PastRun
from rayunlearn.scheduling.plan import PlanSettings, Refusal, plan
from rayunlearn.scheduling.queue import RunUnderWay, place
from tests.scheduling.test_plan import HOUR, METHODS, NOW, asked, lineage

QUICK = settings(deadline=None, max_examples=60, database=None)
LINEAGES = ("a", "b", "c")
CLASSES = 8
ACCESS = [("weights",), ("retain",), ("retain", "weights"), ("forget", "retain", "weights"), ("forget",)]


@st.composite
def situations(draw):
    """Arguments of a plan: up to a dozen requests over three lineages, in any state."""
    names = [f"r{i}" for i in range(draw(st.integers(0, 12)))]
    pending = [
        asked(
            name,
            *draw(st.sets(st.integers(0, CLASSES), min_size=1, max_size=3)),
            due=draw(st.sampled_from([None, 0, 1, 2, 30])),
            received=draw(st.sampled_from([-2000, -40, -30])),
            lineage=draw(st.sampled_from(LINEAGES)),
            access=draw(st.sampled_from(ACCESS)),
            priority=draw(st.integers(0, 1)),
            method=draw(st.sampled_from([None, None, None, *METHODS])),
            kind=draw(st.sampled_from(["classes", "classes", "classes", "samples"])),
        )
        for name in names
    ]
    running = RunUnderWay(request_ids=("x",), target=(1,), method="gkt", started_at=NOW - HOUR)
    lineages = [
        lineage(
            name,
            num_classes=CLASSES,
            forgotten=draw(st.sets(st.integers(0, CLASSES - 1), max_size=3)),
            kept=draw(st.sampled_from([0.7, 0.9, 1.0])),
            under_way=draw(st.sampled_from([None, None, running])),
        )
        for name in LINEAGES
    ]
    history = st.builds(
        PastRun,
        method=st.sampled_from(sorted(METHODS)),
        recipe=st.just("digits"),
        forgotten=st.integers(0, CLASSES),
        seconds=st.sampled_from([60.0, 3600.0, 9000.0]),
        passed=st.booleans(),
        kept=st.sampled_from([None, 0.8, 0.95]),
    )
    refusals = st.builds(
        Refusal,
        request_ids=st.sets(st.sampled_from(names), min_size=1, max_size=2).map(
            lambda ids: tuple(sorted(ids))
        ),
        method=st.sampled_from(sorted(METHODS)),
        attempt=st.integers(1, 3),
        reason=st.just("gate"),
    )
    return {
        "pending": pending,
        "lineages": lineages,
        "history": draw(st.lists(history, max_size=12)),
        "refusals": draw(st.lists(refusals, max_size=4)) if names else [],
        "slots": draw(st.integers(0, 4)),
        "settings": PlanSettings(
            order=("gkt", "ispf", "relabel"),
            max_classes=draw(st.integers(1, 4)),
            costs=CostSettings(evidence=draw(st.integers(1, 3))),
        ),
    }


def planned(situation):
    """The plan of a situation."""
    others = {name: value for name, value in situation.items() if name != "pending"}
    return plan(situation["pending"], methods=METHODS, now=NOW, **others)


@QUICK
@given(situations())
def test_every_pending_request_is_in_exactly_one_decision(situation):
    """Starts, waits and parks share the queue out; flags name requests of it, each once."""
    result = planned(situation)
    decided = [i for start in result.starts for i in start.request_ids]
    decided += [decision.request_id for decision in (*result.waits, *result.parks)]
    asked_for = [p.request.request_id for p in situation["pending"]]
    assert sorted(decided) == sorted(asked_for)
    flagged = [flag.request_id for flag in result.flags]
    assert len(set(flagged)) == len(flagged) and set(flagged) <= set(asked_for)


@QUICK
@given(situations())
def test_one_run_a_lineage_and_no_more_than_fit(situation):
    """No lineage has two runs, and no slot; what is free is used while an idle lineage could use it."""
    result = planned(situation)
    busy = [line.name for line in situation["lineages"] if line.under_way]
    begun = [start.lineage for start in result.starts]
    assert len({*busy, *begun}) == len(busy) + len(begun)
    assert len(begun) <= situation["slots"]
    lineage_of = {p.request.request_id: p.request.lineage for p in situation["pending"]}
    could = {lineage_of[wait.request_id] for wait in result.waits} - {*busy, *begun}
    assert not could or len(begun) == situation["slots"]


@QUICK
@given(situations())
def test_no_run_uses_more_data_than_each_of_its_requests_allows(situation):
    """A run's access is what all allow, its method needs no more and serves the kind; retrain needs data."""
    requests = {p.request.request_id: p.request for p in situation["pending"]}
    for start in planned(situation).starts:
        members = [requests[i] for i in start.request_ids]
        allowed = set.intersection(*(set(member.data_access) for member in members))
        assert set(start.data_access) == allowed
        assert METHODS[start.method].data_access <= allowed
        assert {member.kind for member in members} <= METHODS[start.method].granularity
        assert {member.lineage for member in members} == {start.lineage}
        if allowed == {"weights"}:
            assert start.method != "retrain"


@QUICK
@given(situations())
def test_a_run_forgets_what_its_requests_name_and_leaves_two_classes(situation):
    """The target is all that is asked for and not forgotten yet, within the bounds where it is coalesced."""
    requests = {p.request.request_id: p.request for p in situation["pending"]}
    lineages = {line.name: line for line in situation["lineages"]}
    for start in planned(situation).starts:
        members = [requests[i] for i in start.request_ids]
        named = {c for member in members for c in member.target}
        if members[0].kind == "samples":
            assert start.target == tuple(sorted(named))
            continue
        gone = lineages[start.lineage].forgotten
        assert start.target == tuple(sorted(named - gone))
        assert len(gone | named) <= CLASSES - 2
        largest = max(len(set(member.target) - gone) for member in members)
        assert len(start.target) <= max(largest, situation["settings"].max_classes)


@QUICK
@given(situations())
def test_the_earliest_due_is_served_first(situation):
    """The first of a run comes before all who wait on its lineage, and on lineages that wait."""
    result = planned(situation)
    wait = timedelta(days=situation["settings"].longest_wait_days)
    key = {p.request.request_id: place(p, NOW, wait) for p in situation["pending"]}
    lineage_of = {p.request.request_id: p.request.lineage for p in situation["pending"]}
    busy = {line.name for line in situation["lineages"] if line.under_way}
    begun = {start.lineage: start.request_ids for start in result.starts}
    for ids in begun.values():
        assert list(ids) == sorted(ids, key=key.get)
    for waiting in result.waits:
        own = lineage_of[waiting.request_id]
        if own in begun:
            assert key[begun[own][0]] < key[waiting.request_id]
        elif own not in busy:
            assert all(key[ids[0]] < key[waiting.request_id] for ids in begun.values())


@QUICK
@given(situations())
def test_a_refused_request_is_alone_and_meets_no_method_twice(situation):
    """A request that was refused is served alone, by a method that has not been refused for it alone."""
    for start in planned(situation).starts:
        mine = [r for r in situation["refusals"] if set(r.request_ids) & set(start.request_ids)]
        if mine:
            assert len(start.request_ids) == 1
            assert start.method not in {r.method for r in mine if len(r.request_ids) == 1}
        assert start.attempt == len(mine) + 1


@QUICK
@given(situations())
def test_deadlines_are_flagged_where_they_are_missed_and_only_there(situation):
    """A flag's expectation lies after its deadline; a start without a flag is expected in time."""
    result = planned(situation)
    deadlines = {p.request.request_id: p.request.deadline for p in situation["pending"]}
    flagged = {flag.request_id for flag in result.flags}
    for flag in result.flags:
        left = (flag.deadline - NOW).total_seconds()
        assert flag.deadline == deadlines[flag.request_id]
        assert left < 0 if flag.expected_s is None else left < flag.expected_s
    for start in result.starts:
        for request_id in start.request_ids:
            due = deadlines[request_id]
            in_time = due is None or NOW + timedelta(seconds=start.expected_s) <= due
            assert in_time == (request_id not in flagged)


@QUICK
@given(situations(), st.randoms(use_true_random=False))
def test_the_order_of_the_arguments_makes_no_difference(situation, random):
    """Requests, lineages, history and refusals in any order give the same plan, reasons included."""
    names = ("pending", "lineages", "history", "refusals")
    shuffled = {**situation, **{name: random.sample(situation[name], len(situation[name])) for name in names}}
    assert planned(shuffled) == planned(situation)
